"""`edgetem atoms`: columns of an image, as picture, table and structure."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.archive.vendor import VendorFileError, read_image
from edgetem_nodes.featurizer.atoms import FoundAtoms, ImageError, find_atoms
from edgetem_nodes.featurizer.atoms.distortion import affine_distortion
from edgetem_nodes.featurizer.atoms.species import KINDS
from edgetem_nodes.featurizer.atoms.structure import HOSTS, check_symbol

PICOMETRE = 1e-12
COLOURS = {"host": "#4aa3df", "lighter": "#ffd23f", "heavier": "#e4572e", "vacancy": "#ff5fd2", "double": "#b48cff",
           "off-lattice": "#76e083", "unknown": "#b8b8b8"}
_ALIKE = 0.01
"""Part by which the two pixel sizes of a file may differ."""


class AtomsError(ValueError):
    """A file, option or image cannot be used; the message says why."""


def find_in_file(file: Path, output: Path, pixel_size: float = 0.0, signal: str = "", contrast: str = "bright",
                 material: str = "", lighter: str = "X", heavier: str = "X", overwrite: bool = False) -> list[str]:
    """Find the columns of an image file and write what was found; returns lines for people.

    Parameters
    ----------
    pixel_size : [m]; 0: what the file says. material : of HOSTS, or empty. lighter, heavier : symbols of dopants.

    Raises
    ------
    AtomsError : see the message.
    """
    if material and material not in HOSTS:
        raise AtomsError(f"material {material!r} is not one of {', '.join(HOSTS)}")
    if (output / "atoms.json").exists() and not overwrite:
        raise AtomsError(f"{output} holds results: name another folder with --output, or give --overwrite")
    try:
        check_symbol("--lighter", lighter), check_symbol("--heavier", heavier)
    except ValueError as error:
        raise AtomsError(str(error)) from None
    image, size = read(file, signal, pixel_size)
    try:
        found = find_atoms(image, size, contrast, material or None)
        structure = None if size is None else found.to_atoms(lighter, heavier)
        output.mkdir(parents=True, exist_ok=True)
        summary = summarised(found)
        (output / "atoms.json").write_text(json.dumps(summary, indent=1) + "\n")
        _write_table(found, output / "atoms.csv")
        if structure is not None:
            structure.write(output / "atoms.extxyz")
    except (ImageError, OSError) as error:
        raise AtomsError(_named(file, error)) from None
    except (ValueError, KeyError) as error:
        raise AtomsError(f"{file}: no structure can be made, nothing was written: {error}") from None
    picture(image, found, output / "atoms.png")
    return lines(summary) + [f"written to {output}: " + ", ".join(sorted(p.name for p in output.glob("atoms.*")))]


def read(file: Path, signal: str, pixel_size: float) -> tuple[np.ndarray, float | None]:
    """The image (rows, columns) of a .npy file or of what RosettaSciIO reads, and its pixel size [m], None if not known.

    Raises
    ------
    AtomsError : it cannot be read.
    """
    try:
        if file.suffix.lower() == ".npy":
            image, step = _plain_array(file), None
        else:
            vendor = read_image(file, signal)
            image, step = vendor.data, vendor.step
    except (OSError, ValueError, VendorFileError) as error:
        raise AtomsError(_named(file, error)) from None
    if pixel_size > 0:
        return image, pixel_size
    if step is not None and abs(step[0] / step[1] - 1) > _ALIKE:
        raise AtomsError(f"{file}: pixels of {step[0] / PICOMETRE:.4g} x {step[1] / PICOMETRE:.4g} pm are not square: resample "
                         "the image, or give --pixel-size")
    return image, None if step is None else step[0]


def _named(file: Path, error: Exception) -> str:
    """An error with the path that it is about, once."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) if str(file) in str(error) else f"{file}: {error}"


def _plain_array(file: Path) -> np.ndarray:
    """The array of a .npy file; ValueError where it holds none of plain numbers. Nothing is unpickled."""
    try:
        with file.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        if "Object arrays" in str(error):
            raise ValueError("it holds Python objects, which are never loaded: save the image as an array of numbers") from None
        raise ValueError("it is no .npy file, or cut short: save the image with numpy.save") from None


def summarised(found: FoundAtoms) -> dict[str, Any]:
    """What was found as plain numbers; lengths in pm where the pixel size is known, else in pixels."""
    unit, scale = ("pixel", 1.0) if found.pixel_size is None else ("pm", found.pixel_size / PICOMETRE)
    kinds = found.kinds
    result: dict[str, Any] = {
        "columns_found": int(found.found.sum()), "sites_looked_at": int((~found.found).sum()), "length_unit": unit,
        "pixel_size_pm": None if found.pixel_size is None else scale, "weights_sha256": found.weights,
        "column_sigma": float(np.linalg.det(found.sigma) ** 0.25 * scale),
        "median_position_error": [float(v) * scale for v in np.nanmedian(found.position_errors, axis=0)],
        "kinds": {str(kind): int((kinds == kind).sum()) for kind in np.unique(kinds)}, "notes": list(found.notes)}
    if found.lattice is None:
        return result | {"lattice": None, "no_lattice": found.no_lattice}
    lattice, distortion = found.lattice, affine_distortion(found.lattice.vectors)
    result["lattice"] = {
        "vectors_y_x": (lattice.vectors * scale).tolist(), "lengths_a_b_a-b": (lattice.lengths * scale).tolist(),
        "relative_standard_errors": (lattice.length_errors / lattice.lengths).tolist(),
        "angle_deg": math.degrees(lattice.angle),
        "relative_spread_over_image": found.uniformity().tolist(), "anisotropy": distortion.anisotropy,
        "anisotropy_of_halves_corrected_by_the_other": found.held_out_anisotropy().tolist(),
        "affine_distortion": {"of": distortion.symmetry, "equal_area_constant": distortion.constant * scale,
                              "stretches": distortion.stretches.tolist(),
                              "direction_deg": math.degrees(distortion.direction)}}
    result["sublattices"] = [
        {"offset": s.offset.tolist(), "amplitude": s.amplitude, "host_spread": s.spread, "separation": s.separation,
         "kinds_identifiable": s.identifiable, "sites": s.completeness.sites, "found": s.completeness.found,
         "completeness": s.completeness.fraction, "sound_sites": s.completeness.sound_sites,
         "completeness_of_sound_sites": s.completeness.sound_fraction} for s in found.sublattices]
    undecided = set(found.undecided().tolist())
    result["candidates"] = [_candidate(found, row, kinds) | {"decided": row not in undecided} for row in found.candidates()]
    return result


def _candidate(found: FoundAtoms, row: int, kinds: np.ndarray) -> dict[str, Any]:
    return {"y": float(found.positions[row, 0]), "x": float(found.positions[row, 1]), "sublattice": int(found.sublattice[row]),
            "kind": str(kinds[row]), "ratio": float(found.ratio[row]), "ratio_error": float(found.ratio_error[row]),
            "probabilities": dict(zip(KINDS, found.probabilities[row].tolist(), strict=True)),
            "possible": [{"kind": kind, "probability": p, "alone": q} for kind, p, q in found.possible(row)],
            "q_value": float(found.q_values[row]), "sound": bool(found.sound[row])}


def lines(summary: dict[str, Any]) -> list[str]:
    """A summary for people."""
    unit = summary["length_unit"]
    result = [f"{summary['columns_found']} columns, position error {max(summary['median_position_error']):.3g} {unit}"]
    if summary["lattice"] is None:
        return result + [f"no lattice: {summary['no_lattice']}", *summary["notes"]]
    lattice = summary["lattice"]
    lengths = ", ".join(f"{v:.5g} ({100 * e:.2g} %)" for v, e in zip(lattice["lengths_a_b_a-b"],
                                                                      lattice["relative_standard_errors"], strict=True))
    affine = lattice["affine_distortion"]
    result += [f"lattice |a|, |b|, |a - b|: {lengths} {unit}; angle {lattice['angle_deg']:.2f} deg",
               f"anisotropy {100 * lattice['anisotropy']:.2g} %: against a {affine['of']} lattice of the same area, "
               f"{affine['equal_area_constant']:.5g} {unit}, the image is stretched by {affine['stretches'][0]:.4f} along "
               f"{affine['direction_deg']:.0f} deg and {affine['stretches'][1]:.4f} across"]
    for number, s in enumerate(summary["sublattices"]):
        result.append(f"sublattice {number}: amplitude {s['amplitude']:.2f}, {s['found']} of {s['sites']} sites "
                      f"({100 * s['completeness']:.1f} %), of sound ones {100 * s['completeness_of_sound_sites']:.1f} %")
    counts = {kind: sum(c["kind"] == kind and c["decided"] for c in summary["candidates"]) for kind in KINDS[1:]}
    counts["not decided"] = sum(not c["decided"] for c in summary["candidates"])
    result.append("candidates: " + (", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "none"))
    undecided = [_told(c) for c in summary["candidates"] if not c["decided"]]
    if undecided:
        result += ["not decided (in brackets without what the other columns say of how frequent kinds are):", *undecided]
    return result + summary["notes"]


def _told(candidate: dict[str, Any]) -> str:
    """What a candidate may be whose kind is not known."""
    kinds = ", ".join(f"{one['kind']} {one['probability']:.2f} ({one['alone']:.2f})" for one in candidate["possible"])
    return f"  the column at row {candidate['y']:.0f}, column {candidate['x']:.0f}: {kinds}"


def _write_table(found: FoundAtoms, path: Path) -> None:
    """One line a column or site, pixels and the image's unit."""
    kinds, errors = found.kinds, found.position_errors
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["y_pixel", "x_pixel", "y_error", "x_error", "amplitude", "amplitude_error", "background", "found",
                         "sublattice", "node_1", "node_2", "kind", "certainty", *(f"p_{kind}" for kind in KINDS), "q_value",
                         "ratio", "ratio_error", "sound"])
        certainty = found.certainty
        for i in range(len(found)):
            numbers = [*found.positions[i], *errors[i], found.amplitudes[i], found.amplitude_errors[i], found.backgrounds[i]]
            tail = [certainty[i], *found.probabilities[i], found.q_values[i], found.ratio[i], found.ratio_error[i]]
            writer.writerow([*(f"{v:.6g}" for v in numbers), int(found.found[i]), found.sublattice[i], *found.nodes[i],
                             kinds[i], *(f"{v:.4g}" for v in tail), int(found.sound[i])])


def picture(image: np.ndarray, found: FoundAtoms, path: Path) -> Path:
    """The image with a point for every column, coloured by kind; defects are ringed."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = found.kinds
    low, high = np.nanpercentile(image, (1, 99.7))
    figure, axes = plt.subplots(figsize=(8, 8 * image.shape[0] / image.shape[1] + 0.6), layout="constrained")
    axes.imshow(image, cmap="gray", vmin=low, vmax=high)
    drawn = found.found | (kinds == "vacancy") | ~np.isin(kinds, ("host", "unknown"))
    for kind, colour in COLOURS.items():
        mine = drawn & (kinds == kind)
        if not mine.any():
            continue
        plain = kind in ("host", "unknown")
        y, x = found.positions[mine].T
        axes.scatter(x, y, s=7 if plain else 90, marker="o" if plain else "s" if kind == "vacancy" else "o", linewidths=1.6,
                     facecolors=colour if plain else "none", edgecolors="none" if plain else colour,
                     label=f"{kind} ({mine.sum()})")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=4, frameon=False)
    axes.set_axis_off()
    if found.pixel_size is not None:
        length = 1e-9 / found.pixel_size
        axes.plot([10, 10 + length], [image.shape[0] - 12] * 2, color="white", lw=4, solid_capstyle="butt")
        axes.text(10 + length / 2, image.shape[0] - 18, "1 nm", color="white", ha="center", va="bottom")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
