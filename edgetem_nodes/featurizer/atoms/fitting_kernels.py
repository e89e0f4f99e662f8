"""Compiled loops of the fit of columns: normal equations of each in its window, neighbours taken off, one shared shape.

A column is amplitude * exp(-d P d / 2) + background, d = (y, x) from its centre, P the precision matrix that all share.
Parameters of a column are in the order amplitude, y, x, background; of the shape P_yy, P_yx, P_xx.
"""

from __future__ import annotations

import numpy as np
from numba import njit

OWN = 4
SHARED = 3
FARTHEST = 9.0
"""Of d P d, beyond which a neighbour adds nothing that matters (height 0.011)."""


@njit(cache=True, nogil=True)
def window_count(place, radius, rows, columns):
    """Number of pixels of the round window about a place that lie in the image."""
    count = 0
    for y in range(max(0, int(np.ceil(place[0] - radius))), min(rows, int(place[0] + radius) + 1)):
        for x in range(max(0, int(np.ceil(place[1] - radius))), min(columns, int(place[1] + radius) + 1)):
            count += (y - place[0]) ** 2 + (x - place[1]) ** 2 <= radius * radius
    return count


@njit(cache=True, nogil=True)
def neighbours_sum(y, x, k, table, shape, starts, neighbours):
    """Height at a pixel of all columns near column k but k."""
    total = 0.0
    for i in range(starts[k], starts[k + 1]):
        other = neighbours[i]
        dy, dx = y - table[other, 1], x - table[other, 2]
        square = shape[0] * dy * dy + 2 * shape[1] * dy * dx + shape[2] * dx * dx
        if square < FARTHEST:
            total += table[other, 0] * np.exp(-0.5 * square)
    return total


@njit(cache=True, nogil=True)
def derivatives(y, x, row, shape, result):
    """Height at a pixel without the background; derivatives by all seven parameters into result."""
    dy, dx = y - row[1], x - row[2]
    slope_y, slope_x = shape[0] * dy + shape[1] * dx, shape[1] * dy + shape[2] * dx
    height = np.exp(-0.5 * (slope_y * dy + slope_x * dx))
    result[0] = height
    result[1] = row[0] * height * slope_y
    result[2] = row[0] * height * slope_x
    result[3] = 1.0
    result[4] = -0.5 * row[0] * height * dy * dy
    result[5] = -row[0] * height * dy * dx
    result[6] = -0.5 * row[0] * height * dx * dx
    return row[0] * height


@njit(cache=True, nogil=True)
def equations(image, k, centre, radius, table, shape, starts, neighbours, matrix, right):
    """Normal matrix (7, 7) and right side (7,) of column k; returns the sum of squared residuals and the pixels."""
    rows, columns = image.shape
    slopes = np.empty(OWN + SHARED)
    matrix[:] = 0.0
    right[:] = 0.0
    square, count = 0.0, 0
    for y in range(max(0, int(np.ceil(centre[0] - radius))), min(rows, int(centre[0] + radius) + 1)):
        for x in range(max(0, int(np.ceil(centre[1] - radius))), min(columns, int(centre[1] + radius) + 1)):
            if (y - centre[0]) ** 2 + (x - centre[1]) ** 2 > radius * radius:
                continue
            height = derivatives(y, x, table[k], shape, slopes)
            rest = image[y, x] - height - table[k, 3] - neighbours_sum(y, x, k, table, shape, starts, neighbours)
            square += rest * rest
            count += 1
            for i in range(OWN + SHARED):
                right[i] += slopes[i] * rest
                for j in range(i + 1):
                    matrix[i, j] += slopes[i] * slopes[j]
    for i in range(OWN + SHARED):
        for j in range(i):
            matrix[j, i] = matrix[i, j]
    return square, count


@njit(cache=True, nogil=True)
def sweep(image, starts_at, radius, table, shape, starts, neighbours, usable, farthest, fixed, stiffness):
    """One Gauss-Newton step of every column in turn; returns the shape's equations (3, 3), (3,), own parameters eliminated.

    `fixed` columns keep their place. A column's own background is drawn to 0 as if by `stiffness` times its pixels.
    Steps are limited to half a pixel, and places to `farthest` from where they began.
    """
    matrix, right = np.empty((OWN + SHARED, OWN + SHARED)), np.empty(OWN + SHARED)
    shared_matrix, shared_right = np.zeros((SHARED, SHARED)), np.zeros(SHARED)
    for k in range(len(table)):
        if not usable[k]:
            continue
        _, count = equations(image, k, starts_at[k], radius, table, shape, starts, neighbours, matrix, right)
        matrix[3, 3] += stiffness * count
        right[3] -= stiffness * count * table[k, 3]
        if fixed[k]:
            for i in (1, 2):
                matrix[i, :] = 0.0
                matrix[:, i] = 0.0
                matrix[i, i] = 1.0
                right[i] = 0.0
        own = matrix[:OWN, :OWN].copy()
        for i in range(OWN):
            own[i, i] = own[i, i] * (1 + 1e-9) + 1e-30
        step = np.linalg.solve(own, right[:OWN].copy())
        if not fixed[k] and table[k, 0] > 0:
            cross = np.linalg.solve(own, matrix[:OWN, OWN:].copy())
            shared_matrix += matrix[OWN:, OWN:] - matrix[OWN:, :OWN].copy() @ cross
            shared_right += right[OWN:] - matrix[OWN:, :OWN].copy() @ step
        table[k, 0] += step[0]
        table[k, 3] += step[3]
        for i in (1, 2):
            moved = table[k, i] + min(0.5, max(-0.5, step[i]))
            start = starts_at[k, i - 1]
            table[k, i] = min(start + farthest, max(start - farthest, moved))
    return shared_matrix, shared_right


@njit(cache=True, nogil=True)
def residuals(image, starts_at, radius, table, shape, starts, neighbours, usable, rest, model):
    """Fill images with data minus model, and the model, in the windows; a pixel of two windows takes the nearer column's."""
    rows, columns = image.shape
    nearest = np.full((rows, columns), np.inf)
    slopes = np.empty(OWN + SHARED)
    for k in range(len(table)):
        if not usable[k]:
            continue
        centre = starts_at[k]
        for y in range(max(0, int(np.ceil(centre[0] - radius))), min(rows, int(centre[0] + radius) + 1)):
            for x in range(max(0, int(np.ceil(centre[1] - radius))), min(columns, int(centre[1] + radius) + 1)):
                distance = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
                if distance > radius * radius or distance >= nearest[y, x]:
                    continue
                nearest[y, x] = distance
                value = derivatives(y, x, table[k], shape, slopes) + table[k, 3] \
                    + neighbours_sum(y, x, k, table, shape, starts, neighbours)
                model[y, x] = value
                rest[y, x] = image[y, x] - value


@njit(cache=True, nogil=True)
def covariances(variance, correlation, starts_at, radius, table, shape, usable, fixed, stiffness, result):
    """Covariance (n, 4, 4) of own parameters: inverse normal matrix times that of the noise, `variance` (rows, columns) with
    `correlation` (2 r + 1, 2 r + 1) of pixels."""
    rows, columns = variance.shape
    reach = correlation.shape[0] // 2
    edge = 2 * int(radius) + 3
    slopes = np.empty(OWN + SHARED)
    field = np.empty((edge, edge, OWN))
    for k in range(len(table)):
        result[k] = np.nan
        if not usable[k]:
            continue
        field[:] = 0.0
        normal, noise = np.zeros((OWN, OWN)), np.zeros((OWN, OWN))
        centre = starts_at[k]
        y0, x0 = int(np.ceil(centre[0] - radius)), int(np.ceil(centre[1] - radius))
        for y in range(max(0, y0), min(rows, int(centre[0] + radius) + 1)):
            for x in range(max(0, x0), min(columns, int(centre[1] + radius) + 1)):
                if (y - centre[0]) ** 2 + (x - centre[1]) ** 2 > radius * radius:
                    continue
                derivatives(y, x, table[k], shape, slopes)
                if fixed[k]:
                    slopes[1] = slopes[2] = 0.0
                for i in range(OWN):
                    field[y - y0, x - x0, i] = slopes[i] * np.sqrt(variance[y, x])
                    for j in range(OWN):
                        normal[i, j] += slopes[i] * slopes[j]
        for y in range(edge):
            for x in range(edge):
                if field[y, x, 3] == 0.0:
                    continue
                for dy in range(max(-reach, -y), min(reach + 1, edge - y)):
                    for dx in range(max(-reach, -x), min(reach + 1, edge - x)):
                        weight = correlation[dy + reach, dx + reach]
                        for i in range(OWN):
                            for j in range(OWN):
                                noise[i, j] += weight * field[y, x, i] * field[y + dy, x + dx, j]
        normal[3, 3] *= 1 + stiffness
        for i in range(OWN):
            normal[i, i] = normal[i, i] * (1 + 1e-12) + (1.0 if fixed[k] and i in (1, 2) else 1e-30)
        inverse = np.linalg.inv(normal)
        result[k] = inverse @ noise @ inverse


@njit(cache=True, nogil=True)
def add_columns(image, table, shape):
    """Add the height of columns (n, 4), without backgrounds, to an image."""
    rows, columns = image.shape
    spread = np.sqrt(FARTHEST * max(shape[0], shape[2]) / (shape[0] * shape[2] - shape[1] * shape[1]))
    for k in range(len(table)):
        for y in range(max(0, int(table[k, 1] - spread)), min(rows, int(table[k, 1] + spread) + 2)):
            for x in range(max(0, int(table[k, 2] - spread)), min(columns, int(table[k, 2] + spread) + 2)):
                dy, dx = y - table[k, 1], x - table[k, 2]
                square = shape[0] * dy * dy + 2 * shape[1] * dy * dx + shape[2] * dx * dx
                if square < FARTHEST:
                    image[y, x] += table[k, 0] * np.exp(-0.5 * square)
