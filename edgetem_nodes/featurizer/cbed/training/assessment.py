"""What trained networks say of patterns that they were not trained on: for calibration and for the model card."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.cbed.blocks import in_groups
from edgetem_nodes.featurizer.cbed.generator import NanobeamGenerator
from edgetem_nodes.featurizer.cbed.lattices import LatticeNetworks
from edgetem_nodes.featurizer.cbed.materials import Material
from edgetem_nodes.featurizer.cbed.nanobeam import Members, scan_vectors
from edgetem_nodes.featurizer.cbed.networks import DiskNetwork, PatternNetwork, RefiningNetwork
from edgetem_nodes.featurizer.cbed.posterior import (DETERMINED, TWO_ANSWERS, log_probabilities, moments, standardised,
                                                     to_lattice_axes)
from edgetem_nodes.featurizer.cbed.reading import read_patterns
from edgetem_nodes.featurizer.cbed.training.calibration import NINETY, Outputs
from edgetem_nodes.featurizer.cbed.training.disks import SHARD
from edgetem_nodes.featurizer.cbed.training.readings import exposures_of, right_lattices
from edgetem_nodes.featurizer.cbed.training.registry import TrainingError, TrainingRun
from edgetem_nodes.featurizer.cbed.training.settings import NanobeamTraining
from edgetem_nodes.featurizer.cbed.training.truth import true_lattices, wavelengths
from edgetem_nodes.featurizer.cbed.training.workers import in_shards
from edgetem_nodes.featurizer.cbed.weights import fill_module


def outputs_of(settings: NanobeamTraining, generator: NanobeamGenerator, arrays: dict[str, np.ndarray],
               described: dict, references: np.ndarray, run: TrainingRun, workers: int) -> Outputs:
    """What the networks, in the precision in which they are stored, say of new patterns."""
    def stored(part: str, module):
        return fill_module(module, {name[len(part) + 1:]: value for name, value in arrays.items()
                                    if name.startswith(part + "/")}, part)

    networks = LatticeNetworks(stored("disk", DiskNetwork(described["disk_width"])),
                               stored("refining", RefiningNetwork(described["refining_width"])))
    ensemble = Members([stored(f"pattern{number}", PatternNetwork(described["classes"], *described["pattern_widths"]))
                        for number in range(described["members"])]).eval()
    wanted = min(settings.calibration_patterns, 4096) if run.stopped() else settings.calibration_patterns

    def shard(number: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng([settings.seed, 3, number])
        return _shard(generator, networks, ensemble, references, min(SHARD, wanted - number * SHARD), rng)

    parts, done = {}, 0
    for number, part in in_shards(shard, -(-wanted // SHARD), workers):
        parts[number] = part
        done += min(SHARD, wanted - number * SHARD)
        run.report("calibration", done, wanted, "")
    whole = [np.concatenate(column) for column in zip(*(parts[number] for number in sorted(parts)), strict=True)]
    if len(whole[0]) < 2 * len(generator.materials):
        raise TrainingError(f"the lattice was right in {len(whole[0])} of {wanted} calibration patterns only: train longer")
    for number in (5, 6, 7):
        whole[number] = np.moveaxis(whole[number], 1, 0)
    return Outputs(*whole)


def _shard(generator: NanobeamGenerator, networks: LatticeNetworks, ensemble: Members, references: np.ndarray, count: int,
           rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Fields of `Outputs`, members on the second axis."""
    batch = generator.draw(count, rng)
    exposures = exposures_of(batch)
    reading = read_patterns(networks, references, batch.patterns, exposures)
    right = right_lattices(reading.lattices.lattice, true_lattices(batch), exposures.radii)
    vectors, covariance = scan_vectors(reading, exposures)
    true = np.swapaxes(batch.reciprocal, 1, 2)
    true = true @ np.rint(np.linalg.inv(true) @ np.nan_to_num(vectors))
    results = in_groups(ensemble, reading.present.sum(axis=1).astype(int), (reading.disks, reading.present), reading.context,
                        told_by_disk=False)
    logits, mixtures, hidden = (one[right] for one in results)
    target = standardised(batch.thickness, to_lattice_axes(batch.tilt, reading.axes))
    return (vectors[right], true[right], covariance[right], reading.lattices.chi_square[right], reading.lattices.freedom[right],
            logits, hidden, mixtures, batch.material[right], target[right], reading.lattices.total[right])


def card(settings: NanobeamTraining, materials: tuple[Material, ...], outputs: Outputs, arrays: dict[str, np.ndarray],
         run: TrainingRun) -> dict[str, object]:
    """What the model card says: data, and figures on patterns that were not trained on."""
    inverse = np.linalg.inv(outputs.true_vectors)
    off = outputs.vectors @ inverse - np.eye(2)
    strain, rotation = off[:, 1, 1], (off[:, 0, 1] - off[:, 1, 0]) / 2
    answer = moments(outputs.mixtures)
    deviation = np.sqrt(np.einsum("nii->ni", answer.covariance))
    prior = arrays["calibration/prior_spread"][outputs.label]
    sure = (deviation < DETERMINED * prior) & (answer.between < TWO_ANSWERS)
    chosen = log_probabilities(outputs.logits, float(arrays["calibration/temperature"])).argmax(axis=1)
    error = np.exp(answer.mean[:, 0] - outputs.target[:, 0]) - 1
    figures = []
    for low, high in ((3e2, 3e3), (3e3, 3e4), (3e4, 1e9)):
        near = (outputs.electrons >= low) & (outputs.electrons < high)
        if not near.any():
            continue
        thick = near & sure[:, 0]
        figures.append({
            "electrons": [low, high], "patterns": int(near.sum()), "strain_median_percent": _percent(strain[near]),
            "rotation_median_deg": float(np.degrees(np.median(np.abs(rotation[near])))),
            "phase_right": float((chosen[near] == outputs.label[near]).mean()),
            "thickness_identifiable": float(sure[near, 0].mean()),
            "thickness_median_percent": _percent(error[thick]) if thick.any() else None,
            "tilt_identifiable": float((sure[near, 1] & sure[near, 2]).mean())})
    return {"network": "nanobeam", "materials": [one.name for one in materials], "wavelengths_pm": sorted(
        {round(float(value) * 1e12, 4) for value in wavelengths(1e3 * np.array(settings.conditions.high_tensions_kV))}),
        "data": "patterns drawn by edgetem_nodes.featurizer.cbed.generator", "parameters": int(sum(
            value.size for name, value in arrays.items() if name.startswith(("disk", "refining", "pattern")))),
        "interval": f"{NINETY} standard errors hold nine of ten on patterns of the calibration",
        "lattice_found": len(outputs.label) / max(settings.calibration_patterns, 1), "figures": figures, "notes": run.notes}


def _percent(values: np.ndarray) -> float:
    return float(100 * np.median(np.abs(values)))
