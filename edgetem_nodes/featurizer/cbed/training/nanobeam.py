"""Recipe of the nanobeam network: first the disk network, then on what it reads the pattern networks, then calibration."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import count as counting
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.generator import ConditionRanges, NanobeamGenerator
from edgetem_nodes.featurizer.cbed.lattices import in_blocks
from edgetem_nodes.featurizer.cbed.materials import Material, material, trained_materials
from edgetem_nodes.featurizer.cbed.nanobeam import Members, scan_vectors
from edgetem_nodes.featurizer.cbed.networks import DiskNetwork, PatternNetwork
from edgetem_nodes.featurizer.cbed.phases import distinct
from edgetem_nodes.featurizer.cbed.posterior import (DETERMINED, TWO_ANSWERS, log_probabilities, moments, standardised,
                                                     to_lattice_axes)
from edgetem_nodes.featurizer.cbed.reading import read_patterns
from edgetem_nodes.featurizer.cbed.training import disks, patterns
from edgetem_nodes.featurizer.cbed.training.calibration import NINETY, Outputs, calibrate
from edgetem_nodes.featurizer.cbed.training.experiment import conditions_of
from edgetem_nodes.featurizer.cbed.training.registry import Trained, TrainingError, TrainingRun
from edgetem_nodes.featurizer.cbed.training.settings import NanobeamTraining
from edgetem_nodes.featurizer.cbed.training.truth import true_lattices, wavelengths
from edgetem_nodes.featurizer.cbed.weights import fill_module, module_arrays

SETTINGS = NanobeamTraining
_QUICK = ("graphene", "h-BN", "MoS2", "WS2")
_DRAWN = 256
_FEWEST = 64


def train(settings: NanobeamTraining, run: TrainingRun) -> Trained:
    """Draw patterns, train, calibrate. The same settings and seed give the same weights on one machine and device.

    Raises
    ------
    TrainingError : weights to begin with are of other phases or sizes; ValueError : no such material, or conditions that
        cannot be.
    """
    settings = _shortened(settings) if run.quick else settings
    if run.archive:
        settings = replace(settings, conditions=conditions_of(run.archive, settings.conditions))
        run.notes.append(f"patterns of {settings.conditions.pixels[0]} pixels with {settings.conditions.electrons[0]:.3g} to "
                         f"{settings.conditions.electrons[1]:.3g} electrons, as in the archive")
    materials = tuple(map(material, settings.materials)) or trained_materials()
    generator = NanobeamGenerator(materials, _ranges(settings), Path(settings.tables) if settings.tables else None)
    generator.prepare(lambda done, total: run.report("rocking curves", done, total, ""))
    rng = np.random.default_rng(settings.seed)
    torch_generator = torch.Generator().manual_seed(settings.seed)
    curves: dict[str, list[float]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        disk = _train_disk(settings, generator, rng, torch_generator, run, curves)
        references = distinct(np.stack([np.linalg.inv(one.reference_lattice) for one in materials]))
        members = _train_members(settings, generator, disk, references, rng, torch_generator, run, curves)
        outputs = _outputs(settings, generator, disk, members, references, rng, run)
    finally:
        torch.set_num_threads(threads)
    calibration = calibrate(outputs, len(materials))
    arrays = {f"calibration/{name}": np.asarray(value, np.float32) for name, value in calibration.items()}
    arrays |= {f"disk/{name}": value for name, value in module_arrays(disk).items()}
    for number, network in enumerate(members):
        arrays |= {f"pattern{number}/{name}": value for name, value in module_arrays(network).items()}
    arrays |= {f"phases/{name}": value for name, value in _phases(materials).items()}
    described = asdict(settings)
    described.pop("tables")
    return Trained(arrays, {"network": "nanobeam", "phases": [one.name for one in materials], "disk_width": settings.disk.width,
                            "pattern_widths": [settings.pattern.disk_width, settings.pattern.width],
                            "members": len(members), "training": described},
                   _card(settings, materials, outputs, arrays, run), curves)


def _shortened(settings: NanobeamTraining) -> NanobeamTraining:
    """As little as goes through everything: sheets, whose tables take seconds, at one high tension."""
    conditions = replace(settings.conditions, high_tensions_kV=settings.conditions.high_tensions_kV[:1], pixels=[64],
                         electrons=[1e5, 1e6])
    return replace(settings, materials=settings.materials or list(_QUICK), conditions=conditions, calibration_patterns=768,
                   disk=replace(settings.disk, patterns=min(settings.disk.patterns, 1024), epochs=min(settings.disk.epochs, 3)),
                   pattern=replace(settings.pattern, patterns=min(settings.pattern.patterns, 1024),
                                   epochs=min(settings.pattern.epochs, 3), members=min(settings.pattern.members, 2)))


def _ranges(settings: NanobeamTraining) -> ConditionRanges:
    conditions = settings.conditions
    pairs = {"semi_convergence_mrad": conditions.semi_convergence_mrad, "electrons": conditions.electrons}
    for name, pair in pairs.items():
        if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
            raise TrainingError(f"conditions.{name} {pair} must be two numbers, the smaller first, above zero")
    if not conditions.high_tensions_kV or not conditions.pixels:
        raise TrainingError("conditions.high_tensions_kV and conditions.pixels must name at least one each")
    return ConditionRanges(
        high_tensions=tuple(1e3 * value for value in conditions.high_tensions_kV),
        semi_convergence_angle=tuple(1e-3 * value for value in conditions.semi_convergence_mrad),
        pixels=tuple(conditions.pixels), strain=conditions.strain, tilt=1e-3 * conditions.tilt_mrad,
        electrons=tuple(conditions.electrons))


def _phases(materials: tuple[Material, ...]) -> dict[str, np.ndarray]:
    return {"lattices": np.stack([one.reference_lattice for one in materials]),
            "sheets": np.array([one.sheet for one in materials]), "spacings": np.array([one.spacing for one in materials]),
            "thicknesses": np.array([one.thicknesses for one in materials])}


def _initial(run: TrainingRun, prefix: str, module: torch.nn.Module) -> None:
    """Fill a module with the weights to begin with, where there are any."""
    if run.initial is None:
        return
    arrays = {name[len(prefix) + 1:]: value for name, value in run.initial[0].items() if name.startswith(prefix + "/")}
    try:
        fill_module(module, arrays, f"--from, part {prefix!r},")
    except ValueError as error:
        raise TrainingError(f"{error}; begin with weights of the same phases and sizes, or from nothing") from None


def _seeded(seed: int, make) -> torch.nn.Module:
    """A module whose random numbers come from a seed, torch's own state left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _train_disk(settings: NanobeamTraining, generator: NanobeamGenerator, rng: np.random.Generator,
                torch_generator: torch.Generator, run: TrainingRun, curves: dict) -> DiskNetwork:
    stage = settings.disk
    network = _seeded(settings.seed, lambda: DiskNetwork(stage.width))
    _initial(run, "disk", network)
    drawing = _drawing(run, "patterns for disks", stage.patterns)
    data = disks.draw_disks(generator, stage.patterns, stage.displacements, rng, drawing)
    losses = curves.setdefault("disk network: loss", [])
    total = stage.epochs * max(len(data) // stage.batch, 1)
    steps = disks.epochs(network, data, stage.epochs, stage.batch, stage.rate, torch_generator, run.device)
    for number, value in enumerate(steps, start=1):
        losses.append(value)
        run.report("disk network", number, total, f"loss {np.mean(losses[-100:]):.3f}")
        if run.stopped():
            run.notes.append(f"the disk network was ended at step {number} of {total}")
            break
    return network.cpu().eval()


def _drawing(run: TrainingRun, stage: str, total: int):
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        run.report(stage, done, total, "")

    return advance


def _train_members(settings: NanobeamTraining, generator: NanobeamGenerator, disk: DiskNetwork, references: np.ndarray,
                   rng: np.random.Generator, torch_generator: torch.Generator, run: TrainingRun,
                   curves: dict) -> list[PatternNetwork]:
    stage = settings.pattern
    wanted = min(stage.patterns, 2048) if run.stopped() else stage.patterns
    data = patterns.draw_patterns(disk, references, generator, wanted, rng, _drawing(run, "patterns for the rest", wanted))
    if len(data) < _FEWEST:
        raise TrainingError(f"a lattice was found in {len(data)} of {wanted} patterns only, too few to train on: more "
                            "electrons, or a longer training of the disk network")
    batch = min(stage.batch, len(data) // 2)
    members = []
    for member in range(stage.members):
        network = _seeded(settings.seed + 1 + member, lambda: PatternNetwork(len(generator.materials) + 1, stage.disk_width,
                                                                             stage.width))
        _initial(run, f"pattern{member}", network)
        phase, density = (curves.setdefault(f"pattern network {member + 1}: {what}", []) for what in
                          ("cross entropy of the phase", "-log p(thickness, tilt)"))
        total = stage.epochs * max(len(data) // batch, 1)
        steps = patterns.epochs(network, data, stage.epochs, batch, stage.rate, torch_generator, run.device)
        for number, (first, second) in enumerate(steps, start=1):
            phase.append(first)
            density.append(second)
            run.report(f"pattern network {member + 1}", number, total,
                       f"phase {np.mean(phase[-100:]):.3f}, density {np.mean(density[-100:]):.3f}")
            if run.stopped():
                run.notes.append(f"pattern network {member + 1} was ended at step {number} of {total}")
                break
        members.append(network.cpu().eval())
    return members


def _outputs(settings: NanobeamTraining, generator: NanobeamGenerator, disk: DiskNetwork, members: list[PatternNetwork],
             references: np.ndarray, rng: np.random.Generator, run: TrainingRun) -> Outputs:
    """What the networks, in the precision in which they are stored, say of new patterns."""
    disk = fill_module(DiskNetwork(settings.disk.width), module_arrays(disk), "the disk network")
    ensemble = Members([fill_module(PatternNetwork(network.phases, settings.pattern.disk_width, settings.pattern.width),
                                    module_arrays(network), "the pattern network") for network in members]).eval()
    wanted = min(settings.calibration_patterns, 1024) if run.stopped() else settings.calibration_patterns
    advance, parts = _drawing(run, "calibration", wanted), []
    for first in counting(0, _DRAWN):
        if first >= wanted:
            break
        batch = generator.draw(min(_DRAWN, wanted - first), rng)
        exposures = patterns.exposures_of(batch)
        reading = read_patterns(disk, references, batch.patterns, exposures)
        right = patterns.right_lattices(reading.lattices.lattice, true_lattices(batch), exposures.radii)
        vectors, covariance = scan_vectors(reading, exposures)
        true = np.swapaxes(batch.reciprocal, 1, 2)
        true = true @ np.rint(np.linalg.inv(true) @ np.nan_to_num(vectors))
        results = in_blocks(ensemble, reading.disks, reading.present, reading.context)
        logits, mixtures, hidden = (one[right] for one in results)
        target = standardised(batch.thickness, to_lattice_axes(batch.tilt, reading.axes))
        parts.append((vectors[right], true[right], covariance[right], reading.lattices.chi_square[right],
                      reading.lattices.freedom[right], logits, hidden, mixtures, batch.material[right], target[right],
                      reading.lattices.total[right]))
        advance(len(right))
    whole = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if len(whole[0]) < 2 * len(generator.materials):
        raise TrainingError(f"the lattice was right in {len(whole[0])} of {wanted} calibration patterns only: train longer")
    for number in (5, 6, 7):
        whole[number] = np.moveaxis(whole[number], 1, 0)
    return Outputs(*whole)


def _card(settings: NanobeamTraining, materials: tuple[Material, ...], outputs: Outputs, arrays: dict[str, np.ndarray],
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
            value.size for name, value in arrays.items() if name.startswith(("disk", "pattern")))),
        "interval": f"{NINETY} standard errors hold nine of ten on patterns of the calibration",
        "lattice_found": len(outputs.label) / max(settings.calibration_patterns, 1), "figures": figures, "notes": run.notes}


def _percent(values: np.ndarray) -> float:
    return float(100 * np.median(np.abs(values)))
