"""Sub-pixel registration of a low-dose image to a part of a survey, with an honest error and an honest refusal.

Maximum likelihood for two noisy pictures of the same scene (Knapp & Carter 1976, IEEE Trans. ASSP 24, 320; Hannan-Thomson
weights): every spatial frequency of the cross spectrum counts with S / (S N1 + S N2 + N1 N2), S the power of the scene, N1
and N2 that of the noise. Phase correlation gives all frequencies one weight, which at low dose is mostly noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

LEAST_SIGNIFICANCE = 5.0
"""Peak of the correlation over its standard deviation where the image were noise alone."""
LEAST_AGREEMENT = 0.6
"""Correlation with the survey over what the noise lets expect."""
_ODDS = 0.01
"""Another peak this probable, relative to the best, makes the shift ambiguous."""
_FARTHEST = 30.0
"""Most that an expected shift takes off a log likelihood."""
_COARSENESS = 0.005
"""Part of the log likelihood of the best shift within which others count as equally good."""
_FLOOR = 0.01
"""[pixels] What resampling and scan errors leave even without noise."""
_FAINTNESS = 8.0
"""A peak that stands no higher than this many standard deviations is displaced by more than the linear error says."""
_ROLL_OFF = 0.3


@dataclass(frozen=True)
class Shift:
    """How far the content of an image has moved against the survey: image(p) shows what the survey shows at p - (y, x).

    Attributes
    ----------
    y, x : [pixels] of the survey.
    covariance : (2, 2) of (y, x) [pixels^2].
    survey_share : part of the covariance that comes from the survey's noise, so is the same in every image of one region.
    quality : weighted correlation with the survey, at most 1.
    problem : why it must not be used; empty where it may.
    """

    y: float
    x: float
    covariance: np.ndarray
    quality: float
    problem: str = ""
    survey_share: float = 0.5

    @property
    def standard_error(self) -> tuple[float, float]:
        """Of y and x [pixels]."""
        return tuple(np.sqrt(np.diag(self.covariance)).tolist())

    @property
    def reliable(self) -> bool:
        """Whether it may be used."""
        return not self.problem


def register(image: np.ndarray, survey: np.ndarray, corner: tuple[int, int] = (0, 0), search: int = 8,
             expected: tuple[float, float] = (0.0, 0.0), expected_covariance: np.ndarray | None = None) -> Shift:
    """Shift of an image against the region of a survey that it repeats.

    Parameters
    ----------
    image : (rows, columns), counts or any unit; at least 8 x 8. Brightness may differ from the survey's by a factor.
    survey : (rows, columns), larger or of the same size, same sampling.
    corner : (row, column) of the survey where the image's first pixel lies if nothing has moved.
    search : largest shift along each axis [pixels]. What a search needs beyond the survey's edge is mirrored.
    expected, expected_covariance : (y, x) [pixels] and (2, 2) [pixels^2] of the shift known before. It decides only between
        peaks of the correlation (a lattice has one for every unit cell); the shift that is returned is of this image alone.

    Returns
    -------
    Shift; `problem` is set where there is no contrast, no significant peak, another specimen, or several equal peaks.

    Raises
    ------
    ValueError : shapes that do not fit, or values that are not finite.
    """
    image, survey = np.asarray(image, float), np.asarray(survey, float)
    _check(image, survey, corner, search)
    reference = _with_margin(survey, corner, image.shape, search)
    brightness, reference_brightness = _brightness(image), _brightness(reference)
    if not (image.std() > 1e-9 * brightness and reference.std() > 1e-9 * reference_brightness):
        return _failed("the image has no contrast: it is the same everywhere" if image.std() <= 1e-9 * brightness
                       else "the survey has no contrast here: it is the same everywhere")
    image, reference = image / brightness, reference / reference_brightness
    pair = _Pair(image, reference, search, survey / reference_brightness)
    prior = np.zeros((2, 2)) if expected_covariance is None else np.linalg.inv(np.asarray(expected_covariance, float))
    shift = pair.best(np.asarray(expected, float), prior)
    if not _counts(image, brightness) or not _counts(reference, reference_brightness):
        return shift
    return replace(shift, survey_share=brightness / (brightness + reference_brightness))


def _check(image: np.ndarray, survey: np.ndarray, corner: tuple[int, int], search: int) -> None:
    if image.ndim != 2 or survey.ndim != 2 or min(image.shape) < 8:
        raise ValueError(f"image {image.shape} and survey {survey.shape} must be (rows, columns), the image at least 8 x 8")
    if search < 1 or search > min(image.shape):
        raise ValueError(f"search {search} pixels must be from 1 to the image's smaller side, {min(image.shape)}")
    last = np.asarray(corner) + image.shape
    if min(corner) < 0 or (last > survey.shape).any():
        raise ValueError(f"region {image.shape[0]} x {image.shape[1]} at {tuple(corner)} is outside the survey, "
                         f"{survey.shape[0]} x {survey.shape[1]}; corners are (row, column)")
    if not (np.isfinite(image).all() and np.isfinite(survey).all()):
        raise ValueError("image or survey holds values that are not finite")


def _failed(problem: str) -> Shift:
    return Shift(math.nan, math.nan, np.full((2, 2), math.nan), 0.0, problem)


def _with_margin(survey: np.ndarray, corner: tuple[int, int], shape: tuple[int, int], margin: int) -> np.ndarray:
    """The region with `margin` pixels around it, mirrored where the survey ends."""
    indices = []
    for first, length, size in zip(corner, shape, survey.shape, strict=True):
        index = np.abs(np.arange(first - margin, first + length + margin))
        index = index % (2 * size - 2) if size > 1 else index * 0
        indices.append(np.where(index >= size, 2 * size - 2 - index, index))
    return survey[np.ix_(*indices)]


def _brightness(image: np.ndarray) -> float:
    """What the image is divided by to compare it: its mean, or its spread where the mean tells nothing (a DPC image)."""
    mean, spread = float(image.mean()), float(image.std())
    return mean if mean > 0.1 * spread else max(spread, np.finfo(float).tiny)


def _counts(relative: np.ndarray, brightness: float) -> bool:
    """Whether an image (relative to its brightness) holds whole numbers, so that its noise is that of counting."""
    counts = relative * brightness
    return bool(counts.min() >= 0 and np.abs(counts - np.rint(counts)).max() < 1e-6)


def taper(shape: tuple[int, int]) -> np.ndarray:
    """Window (rows, columns) that falls to zero at the edges (Tukey)."""
    from scipy.signal.windows import tukey

    return np.outer(tukey(shape[0] + 2, _ROLL_OFF)[1:-1], tukey(shape[1] + 2, _ROLL_OFF)[1:-1])


@dataclass(frozen=True)
class _Peak:
    """A maximum of the likelihood: shift (2,) [pixels], and the spectrum of the reference moved by it."""

    shift: np.ndarray
    other: np.ndarray


class _Pair:
    """Image (rows, columns) and reference (rows + 2 search, columns + 2 search), both of mean brightness 1.

    `survey`, as bright as the reference, tells the power that scenes of this specimen have at each frequency.
    """

    def __init__(self, image: np.ndarray, reference: np.ndarray, search: int, survey: np.ndarray) -> None:
        from scipy.ndimage import spline_filter

        self._reference, self._search, self._shape = reference, search, image.shape
        self._spline = spline_filter(reference, 3, mode="mirror")
        self._window = taper(image.shape)
        self._overlap = np.mean(self._window ** 4) / np.mean(self._window ** 2) ** 2
        self._image = self._spectrum(image)
        edges = [np.fft.fft2(slope * (image - image.mean())) for slope in np.gradient(self._window)]
        frequencies = [2 * np.pi * np.fft.fftfreq(n) for n in image.shape]
        self._omega = np.stack(np.meshgrid(*frequencies, indexing="ij"))
        self._image_slopes = 1j * self._omega * self._image - np.stack(edges)
        self._high = (self._omega ** 2).sum(axis=0) > (np.pi / 2) ** 2
        self._power = self._mean_power(survey)

    def _mean_power(self, survey: np.ndarray) -> np.ndarray:
        """Power spectrum averaged over overlapping pieces of the survey (Welch 1967), at most 64 of them."""
        from scipy.ndimage import uniform_filter

        starts = [np.unique(np.linspace(0, size - n, min(2 * size // n - 1, 8)).astype(int))
                  for size, n in zip(survey.shape, self._shape, strict=True)]
        rows, columns = self._shape
        pieces = [np.abs(self._spectrum(survey[y:y + rows, x:x + columns])) ** 2 for y in starts[0] for x in starts[1]]
        return uniform_filter(np.mean(pieces, axis=0), 3, mode="wrap")

    def _spectrum(self, part: np.ndarray) -> np.ndarray:
        mean = (self._window * part).sum() / self._window.sum()
        return np.fft.fft2(self._window * (part - mean))

    def _part(self, shift: np.ndarray) -> np.ndarray:
        """The reference as the image should look if its content had moved by `shift` (y, x) [pixels]."""
        from scipy.ndimage import map_coordinates

        rows, columns = (np.arange(n) + self._search - s for n, s in zip(self._shape, shift, strict=True))
        grid = np.stack(np.meshgrid(rows, columns, indexing="ij"))
        return map_coordinates(self._spline, grid, order=3, mode="mirror", prefilter=False)

    def _weights(self, noise: float) -> tuple[np.ndarray, np.ndarray]:
        """Weight of each frequency and expected power of the scene, for a sum `noise` of the noise of both images."""
        scene = np.maximum(self._power - noise / 2, 0.0)
        scene[0, 0] = 0.0
        return scene / (scene * noise + noise ** 2 / 4), scene

    def _log_likelihood(self, others: np.ndarray, noise: float) -> np.ndarray:
        """Logarithm of the probability of the image given spectra (..., ky, kx) of the reference, but for a constant."""
        weights, scene = self._weights(noise)
        own = weights * scene / np.maximum(scene + noise / 2, 1e-300) / 2
        terms = weights * (self._image * np.conj(others)).real - own * np.abs(others) ** 2
        return terms.sum(axis=(-2, -1)) / self._overlap

    def _noise(self, other: np.ndarray) -> float:
        """Sum of the noise power of both spectra: what is left of their difference at high frequencies."""
        difference = np.abs(self._image - other) ** 2
        total = (np.abs(self._image) ** 2).mean() + (np.abs(other) ** 2).mean()
        return max(float(difference[self._high].mean()), 1e-9 * total)

    def _search_map(self, noise: float) -> np.ndarray:
        """Log likelihood (2 search + 1, 2 search + 1) of whole-pixel shifts from -search to search."""
        windows = np.lib.stride_tricks.sliding_window_view(self._reference, self._shape)[::-1, ::-1]
        result = np.empty(windows.shape[:2])
        for row, parts in enumerate(windows):
            means = np.einsum("nyx,yx->n", parts, self._window) / self._window.sum()
            result[row] = self._log_likelihood(np.fft.fft2((parts - means[:, None, None]) * self._window), noise)
        return result

    def best(self, expected: np.ndarray, prior: np.ndarray) -> Shift:
        """The most probable shift, given an expected one and the inverse of its covariance."""
        middle = self._spectrum(self._part(np.zeros(2)))
        noise = self._noise(middle)
        axis = np.arange(-self._search, self._search + 1.0)
        shifts = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
        posterior = _tempered(self._search_map(noise)) - _penalty(shifts, expected, prior)
        start = np.unravel_index(posterior.argmax(), posterior.shape)
        peak = self._climbed(shifts[start])
        noise = self._noise(peak.other)
        posterior = _tempered(self._search_map(noise)) - _penalty(shifts, expected, prior)
        peaks = [self._climbed(shifts[place]) for place in _maxima(posterior)]
        evidence = np.array([float(self._log_likelihood(peak.other, noise)) for peak in peaks])
        worth = _tempered(evidence) - _penalty(np.array([peak.shift for peak in peaks]), expected, prior)
        return self._judged(peaks, worth)

    def _curvature(self, values: np.ndarray) -> np.ndarray:
        """Sum of values (rows, columns) times the wave vector's square (2, 2), less what the window counts twice."""
        return np.einsum("yx,iyx,jyx->ij", values, self._omega, self._omega) / self._overlap

    def _response(self, weights: np.ndarray, other: np.ndarray, noise: float) -> np.ndarray:
        """How the slope of the correlation follows the shift (2, 2), less what the window's edge and noise pretend."""
        response = np.einsum("yx,iyx,jyx->ij", weights, np.conj(self._image_slopes), 1j * self._omega * other).real
        powers = weights ** 2 * (np.maximum(np.abs(other) ** 2 - noise / 2, 0.0) * noise + noise ** 2 / 4)
        doubt = np.sqrt(np.einsum("yx,iyx->i", powers, self._omega ** 4) / self._overlap)
        response = (response + response.T) / 2 / self._overlap
        return np.sign(response) * np.maximum(np.abs(response) - np.sqrt(np.outer(doubt, doubt)), 0.0)

    def _climbed(self, shift: np.ndarray) -> _Peak:
        """Fisher scoring from a whole-pixel shift; the reference is resampled at each step, so the window adds no bias."""
        for _ in range(6):
            other = self._spectrum(self._part(shift))
            weights, scene = self._weights(self._noise(other))
            cross = self._image * np.conj(other)
            slope = -np.einsum("yx,iyx->i", weights * cross.imag, self._omega) / self._overlap
            step = _inverse(self._curvature(weights * np.maximum(cross.real, scene / 4))) @ slope
            if np.abs(step).max() < 1e-3:
                break
            shift = np.clip(shift + np.clip(step, -0.7, 0.7), -self._search, self._search)
        return _Peak(shift, other)

    def _judged(self, peaks: list[_Peak], worth: np.ndarray) -> Shift:
        """The best of the peaks with its error; how far the others lie apart adds to it as far as they are probable."""
        best = int(worth.argmax())
        shift, other = peaks[best].shift, peaks[best].other
        noise = self._noise(other)
        weights, scene = self._weights(noise)
        cross = (self._image * np.conj(other)).real
        response = self._response(weights, other, noise)
        scatter = self._curvature(weights ** 2 * (np.maximum(cross, 0.0) * noise + noise ** 2 / 4))
        height = float((weights * cross).sum())
        chance = math.sqrt(self._overlap * float((weights ** 2 * (noise / 2) * np.abs(other) ** 2).sum()))
        significance = max(height / max(chance, 1e-300), 0.1)
        covariance = _propagated(response, scatter * (1 + (_FAINTNESS / significance) ** 2), self._search)
        covariance = covariance + _FLOOR ** 2 * np.eye(2)
        powers = [(weights * np.abs(a) ** 2).sum() for a in (self._image, other)]
        quality = height / math.sqrt(max(powers[0] * powers[1], 1e-300))
        doubt = self._doubt(shift, significance, quality, weights * scene, weights * noise / 2)
        problem = doubt or self._chance(float(self._log_likelihood(other, noise)))
        away = np.array([peak.shift for peak in peaks]) - shift
        probability = np.exp(worth - worth[best])
        spread = np.einsum("n,ni,nj->ij", probability, away, away) / probability.sum()
        rivals = (_distance(away, np.linalg.inv(covariance)) > 16.0) & (probability > _ODDS)
        if rivals.any() and not problem:
            y, x = peaks[int(np.where(rivals, worth, -np.inf).argmax())].shift
            problem = (f"ambiguous: a shift of ({y:.1f}, {x:.1f}) pixels fits about as well as ({shift[0]:.1f}, "
                       f"{shift[1]:.1f}); a periodic image needs a smaller search, more dose or a region with a defect")
        return Shift(float(shift[0]), float(shift[1]), covariance + spread, quality, problem)

    def _chance(self, evidence: float) -> str:
        """Whether the best shift may be best by chance: `evidence` is its log likelihood over that of no relation."""
        needed = 2 * math.log(2 * self._search + 1) - math.log(_ODDS)
        if evidence > needed:
            return ""
        return (f"nothing in the survey explains the image better than chance: log likelihood ratio {evidence:.1f}, "
                f"{needed:.1f} is needed; take more dose, another region or a new survey")

    def _doubt(self, shift: np.ndarray, significance: float, quality: float, scene: np.ndarray, noise: np.ndarray) -> str:
        """Why the peak cannot be trusted; empty where it can. `scene` and `noise` are weighted powers."""
        if not significance > LEAST_SIGNIFICANCE:
            return (f"no contrast: the correlation stands {significance:.1f} standard deviations above noise, "
                    f"{LEAST_SIGNIFICANCE:g} are needed; take more dose or another region")
        foreseen = scene.sum() / max((scene + noise).sum(), 1e-300)
        if quality * (1 + 2 / significance) < LEAST_AGREEMENT * foreseen:
            return (f"the image is not this part of the survey: correlation {quality:.2f}, expected {foreseen:.2f}; "
                    "take a new survey")
        if np.abs(shift).max() > self._search - 0.5:
            return f"the shift reaches the end of the search, {self._search} pixels: take a new survey"
        return ""


def _propagated(response: np.ndarray, scatter: np.ndarray, limit: float) -> np.ndarray:
    """Covariance (2, 2) of a shift for the scatter of the slope; along what tells nothing, `limit` is the standard error."""
    values, vectors = np.linalg.eigh(response)
    values = np.maximum(values, 1e-12)
    variances = np.diag(vectors.T @ scatter @ vectors) / values ** 2
    known = variances < limit ** 2
    if known.all():
        return vectors / values @ (vectors.T @ scatter @ vectors) / values @ vectors.T
    return (vectors * np.where(known, variances, limit ** 2)) @ vectors.T


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric (2, 2); a direction without information gets a variance of 1e4 pixels^2."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors / np.maximum(values, 1e-4)) @ vectors.T


def _distance(away: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Squared distance of shifts (..., 2) in standard deviations, given the inverse of a covariance."""
    return np.einsum("...i,ij,...j->...", away, inverse, away)


def _penalty(shifts: np.ndarray, expected: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """What the expectation takes off the log likelihood of shifts (..., 2); it ends somewhere, as a stage may jump."""
    return _FARTHEST * -np.expm1(-0.5 * _distance(shifts - expected, inverse) / _FARTHEST)


def _tempered(log_likelihood: np.ndarray) -> np.ndarray:
    """The log likelihood, taken less seriously the stronger the contrast is.

    Strong peaks of a lattice leak into many frequencies, which then count as many measurements but are one; and two cells
    of a lattice differ by less than scan errors do.
    """
    return log_likelihood / (1 + _COARSENESS * max(float(np.max(log_likelihood)), 0.0))


def _maxima(posterior: np.ndarray) -> list[tuple[int, int]]:
    """Places of the highest local maxima, at most 16: those that a step below one pixel could still make the highest."""
    from scipy.ndimage import maximum_filter

    top = posterior.max()
    # Between whole pixels a peak may be higher than at them; a third of the range is more than any smooth image hides there.
    high = (maximum_filter(posterior, 3) == posterior) & (posterior >= top - 0.35 * max(top - np.median(posterior), 1.0))
    places = sorted(zip(*np.nonzero(high), strict=True), key=lambda place: -posterior[place])
    return places[:16]
