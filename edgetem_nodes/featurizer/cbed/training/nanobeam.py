"""Recipe of the nanobeam network: first the disk network, then on what it finds the refining and the pattern networks, then
calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.generator import ConditionRanges, NanobeamGenerator
from edgetem_nodes.featurizer.cbed.lattices import LatticeNetworks
from edgetem_nodes.featurizer.cbed.materials import Material, material, outlier_materials, trained_materials
from edgetem_nodes.featurizer.cbed.networks import CONTEXT, DiskNetwork, PatternNetwork, RefiningNetwork
from edgetem_nodes.featurizer.cbed.phases import distinct
from edgetem_nodes.featurizer.cbed.training import disks, patterns, refining
from edgetem_nodes.featurizer.cbed.training.assessment import card, outputs_of
from edgetem_nodes.featurizer.cbed.training.calibration import calibrate
from edgetem_nodes.featurizer.cbed.training.readings import Readings, Sources, draw_readings
from edgetem_nodes.featurizer.cbed.training.registry import Trained, TrainingError, TrainingRun
from edgetem_nodes.featurizer.cbed.training.settings import NanobeamTraining
from edgetem_nodes.featurizer.cbed.training.workers import cores, in_shards
from edgetem_nodes.featurizer.cbed.weights import fill_module, module_arrays

SETTINGS = NanobeamTraining
_QUICK, _QUICK_OTHERS = ("graphene", "h-BN", "MoS2", "WS2"), ("MoTe2", "TiS2")
_FEWEST = 64
_OTHERS_STEP = 0.75e-3
"""[rad] of the other materials' tables: coarser than those of what is to be known."""
_STANDARD = 20000
"""Patterns from which inputs are standardised."""
_REPORTED = 20
"""Steps between two reports: a GPU is not to wait for each."""
_MOST_THREADS = 4
"""Of a descent without a GPU; parts of a batch keep no more at work."""


def train(settings: NanobeamTraining, run: TrainingRun) -> Trained:
    """Draw patterns, train, calibrate. The same settings and seed give the same weights on one machine with as many
    cores, or device.

    Raises
    ------
    TrainingError : weights to begin with are of other phases or sizes; ValueError : no such material, or conditions that
        cannot be.
    """
    settings = _shortened(settings) if run.quick else settings
    if run.archive:
        # reads HDF5 with its filters, which a machine that only trains need not have
        from edgetem_nodes.featurizer.cbed.training.experiment import conditions_of

        settings = replace(settings, conditions=conditions_of(run.archive, settings.conditions))
        run.notes.append(f"patterns of {settings.conditions.pixels[0]} pixels with {settings.conditions.electrons[0]:.3g} to "
                         f"{settings.conditions.electrons[1]:.3g} electrons, as in the archive")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _trained(settings, run)
    finally:
        torch.set_num_threads(threads)


def _trained(settings: NanobeamTraining, run: TrainingRun) -> Trained:
    for stage in ("disk", "refining"):
        _left_alone(run, stage, getattr(settings, stage).epochs)
    workers = settings.workers or cores()
    sources = _sources(settings)
    materials = sources.trained.materials
    _prepare(sources, workers, run)
    torch_generator, curves = torch.Generator().manual_seed(settings.seed), {}
    disk = _train_disk(settings, sources.trained, torch_generator, run, curves, workers)
    references = distinct(np.stack([np.linalg.inv(one.reference_lattice) for one in materials]))
    wanted = min(settings.pattern.patterns, 2048) if run.stopped() else settings.pattern.patterns
    # whether there is a second network decides on the disks of the first round
    first = LatticeNetworks(disk, RefiningNetwork(8))
    data = draw_readings(first, references, sources, wanted, settings.seed, _drawing(run, "patterns for the rest", wanted),
                         workers, run.stopped)
    run.needs("refining network", 0.0)
    if data.right.sum() < _FEWEST:
        raise TrainingError(f"the lattice was found in {data.right.sum()} of {len(data.right)} patterns only, too few to train "
                            "on: more electrons, or a longer training of the disk network")
    networks = LatticeNetworks(disk, _train_refining(settings, data, torch_generator, run, curves))
    described = {"network": "nanobeam", "phases": [one.name for one in materials], "disk_width": settings.disk.width,
                 "refining_width": settings.refining.width, "classes": len(materials) + 2, "context": CONTEXT,
                 "pattern_widths": [settings.pattern.disk_width, settings.pattern.width], "members": 0,
                 "training": _described(settings)}
    arrays = {f"phases/{name}": value for name, value in _phases(materials).items()}
    arrays |= _named("disk", disk) | _named("refining", networks.refining)
    run.keep(arrays, described)
    for number, network in enumerate(_train_members(settings, data, len(materials), torch_generator, run, curves)):
        arrays |= _named(f"pattern{number}", network)
        described["members"] = number + 1
        run.keep(arrays, described)
    del data
    outputs = outputs_of(settings, sources.trained, arrays, described, references, run, workers)
    calibration = calibrate(outputs, len(materials))
    arrays |= {f"calibration/{name}": np.asarray(value, np.float32) for name, value in calibration.items()}
    run.keep(arrays, described)
    return Trained(arrays, described, card(settings, materials, outputs, arrays, run), curves)


def _named(part: str, module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {f"{part}/{name}": value for name, value in module_arrays(module).items()}


def _described(settings: NanobeamTraining) -> dict:
    """Settings on which the weights depend."""
    return {name: value for name, value in asdict(settings).items() if name not in ("tables", "workers")}


def _shortened(settings: NanobeamTraining) -> NanobeamTraining:
    """As little as goes through everything: sheets, whose tables take seconds, at one high tension."""
    conditions = replace(settings.conditions, high_tensions_kV=settings.conditions.high_tensions_kV[:1], pixels=[64],
                         electrons=[1e5, 1e6])
    return replace(settings, materials=settings.materials or list(_QUICK), others=settings.others or list(_QUICK_OTHERS),
                   conditions=conditions, calibration_patterns=768,
                   disk=replace(settings.disk, patterns=min(settings.disk.patterns, 1024), epochs=min(settings.disk.epochs, 3)),
                   refining=replace(settings.refining, epochs=min(settings.refining.epochs, 3)),
                   pattern=replace(settings.pattern, patterns=min(settings.pattern.patterns, 1024), countings=1,
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


def _sources(settings: NanobeamTraining) -> Sources:
    """Generators; of the others each has half of the materials at one high tension, which halves the tables."""
    ranges, cache = _ranges(settings), Path(settings.tables) if settings.tables else None
    trained = tuple(map(material, settings.materials)) or trained_materials()
    others = tuple(map(material, settings.others)) or outlier_materials()
    known = {one.name for one in trained}
    others = [one for one in others if one.name not in known]
    split = [(tension, others[number % 2::2] or others) for number, tension in enumerate(ranges.high_tensions)]
    return Sources(NanobeamGenerator(trained, ranges, cache), tuple(
        NanobeamGenerator(some, replace(ranges, high_tensions=(tension,)), cache, tilt_step=_OTHERS_STEP)
        for tension, some in split if some and settings.pattern.other_share > 0), settings.pattern.other_share,
        settings.pattern.several_share, settings.pattern.countings)


def _prepare(sources: Sources, workers: int, run: TrainingRun) -> None:
    """Make or read all tables; meanwhile compile, so that no process has to do it again."""
    wanted = [(generator, *one) for generator in (sources.trained, *sources.others) for one in generator.wanted_tables()]
    wanted.sort(key=lambda one: -_work(one[0].materials[one[1]]))
    compiling = Thread(target=_compile, args=(sources,))
    tables = in_shards(lambda number: wanted[number][0].computed_table(*wanted[number][1:]), len(wanted), workers)
    for done, (number, table) in enumerate(tables):
        wanted[number][0].keep_table(wanted[number][1], table)
        run.report("rocking curves", done + 1, len(wanted), "")
        if done == 0 and workers > 1:
            compiling.start()
    if compiling.ident is not None:
        compiling.join()


def _work(one: Material) -> float:
    """Of a table, up to a factor: the longest come first, so that no process is late."""
    return 0.0 if one.sheet else one.layers * abs(float(np.linalg.det(one.cell[:2, 1:])))


def _compile(sources: Sources) -> None:
    """Draw and read a few patterns of no further use."""
    sheets = [one for one in (*trained_materials(), *outlier_materials()) if one.sheet][:1]
    few = NanobeamGenerator(sheets, replace(sources.trained.ranges, high_tensions=(1e5,), pixels=(64,), electrons=(1e3, 1e5)))
    disks.draw_disks(few, 2, 1, 0)
    draw_readings(LatticeNetworks(DiskNetwork(8), RefiningNetwork(8)), np.linalg.inv(sheets[0].reference_lattice)[None],
                  Sources(few, (few,), 0.2, 0.2, 2), 20, 0)


def _phases(materials: tuple[Material, ...]) -> dict[str, np.ndarray]:
    return {"lattices": np.stack([one.reference_lattice for one in materials]),
            "sheets": np.array([one.sheet for one in materials]), "spacings": np.array([one.spacing for one in materials]),
            "thicknesses": np.array([one.thicknesses for one in materials])}


def _begun(run: TrainingRun, prefix: str, seed: int, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A module of random numbers from a seed, torch's own state left as it was; or with the weights to begin with, if any."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make()
    if run.initial is not None:
        arrays = {name[len(prefix) + 1:]: value for name, value in run.initial[0].items() if name.startswith(prefix + "/")}
        try:
            fill_module(module, arrays, f"--from, part {prefix!r},")
        except ValueError as error:
            raise TrainingError(f"{error}; begin with weights of the same phases and sizes, or from nothing") from None
    return module


def _left_alone(run: TrainingRun, stage: str, epochs: int) -> bool:
    """Whether a network stays as it begins."""
    if epochs == 0 and run.initial is None:
        raise TrainingError(f"{stage}.epochs 0 leaves a network as it begins, which needs weights to begin with: name them by "
                            "--from, or train for an epoch or more")
    return epochs == 0


def _drawing(run: TrainingRun, stage: str, total: int) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        run.report(stage, done, total, "")

    return advance


def _descend(run: TrainingRun, stage: str, steps: Iterator[torch.Tensor], total: int, losses: list[list[float]],
             said: str) -> float:
    """Go through a training's steps, with its losses at hand as numbers every few steps only; the part that was done."""
    waiting: list[torch.Tensor] = []
    torch.set_num_threads(min(cores(), _MOST_THREADS))
    try:
        for number, value in enumerate(steps, start=1):
            waiting.append(value)
            if number % _REPORTED and number < total:
                continue
            for column, values in zip(losses, torch.stack(waiting).reshape(len(waiting), -1).T.tolist(), strict=True):
                column.extend(values)
            waiting.clear()
            run.report(stage, number, total, said.format(*(np.mean(column[-100:]) for column in losses)))
            if run.stopped() and number < total:
                return number / total
    finally:
        torch.set_num_threads(1)
    return 1.0


def _batch(wanted: int, count: int) -> int:
    """Few samples still make some steps."""
    return max(min(wanted, count // 8), 1)


def _train_disk(settings: NanobeamTraining, generator: NanobeamGenerator, torch_generator: torch.Generator, run: TrainingRun,
                curves: dict, workers: int) -> DiskNetwork:
    stage = settings.disk
    network = _begun(run, "disk", settings.seed, lambda: DiskNetwork(stage.width))
    if _left_alone(run, "disk", stage.epochs):
        return network.eval()
    data = disks.draw_disks(generator, stage.patterns, stage.displacements, settings.seed,
                            _drawing(run, "patterns for disks", stage.patterns), workers, run.stopped)
    run.needs("disk network", 0.0)
    batch = _batch(stage.batch, len(data))
    steps = disks.epochs(network, data, stage.epochs, batch, stage.rate, torch_generator, run.device)
    done = _descend(run, "disk network", steps, stage.epochs * (len(data) // batch),
                    [curves.setdefault("disk network: loss", [])], "loss {:.3f}")
    run.needs("disk network", done)
    return network.cpu().eval()


def _train_refining(settings: NanobeamTraining, data: Readings, torch_generator: torch.Generator, run: TrainingRun,
                    curves: dict) -> RefiningNetwork:
    stage = settings.refining
    network = _begun(run, "refining", settings.seed + 1000, lambda: RefiningNetwork(stage.width))
    if _left_alone(run, "refining", stage.epochs):
        return network.eval()
    count = int(data.right.sum())
    batch = _batch(stage.batch, count)
    steps = refining.epochs(network, data.disks, data.right, stage.epochs, batch, stage.rate, torch_generator, run.device)
    done = _descend(run, "refining network", steps, stage.epochs * (count // batch),
                    [curves.setdefault("refining network: loss", [])], "loss {:.3f}")
    run.needs("refining network", done)
    return network.cpu().eval()


def _train_members(settings: NanobeamTraining, data: Readings, phases: int, torch_generator: torch.Generator, run: TrainingRun,
                   curves: dict) -> Iterator[PatternNetwork]:
    """Networks of the ensemble, as they are ready: one at least, and no half-trained one beside others."""
    stage = settings.pattern
    count = int(data.found.sum())
    batch = _batch(stage.batch, count)
    for member in range(stage.members):
        if member and run.stopped():
            return
        network = _begun(run, f"pattern{member}", settings.seed + 1 + member,
                         lambda: PatternNetwork(phases + 2, stage.disk_width, stage.width))
        if run.initial is None:
            some = np.flatnonzero(data.found)[:_STANDARD]
            network.standardise(*(torch.from_numpy(getattr(data.patterns, one)[some])
                                  for one in ("disks", "present", "context")))
        name = f"pattern network {member + 1}"
        losses = [curves.setdefault(f"{name}: {what}", []) for what in
                  ("cross entropy of the phase", "-log p(thickness, tilt)")]
        steps = patterns.epochs(network, data.patterns, data.found, phases, stage.epochs, batch, stage.rate, torch_generator,
                                run.device)
        done = _descend(run, name, steps, stage.epochs * (count // batch), losses, "phase {:.3f}, density {:.3f}")
        if not member:
            run.needs(name, done)
        if done == 1 or not member:
            yield network.cpu().eval()
