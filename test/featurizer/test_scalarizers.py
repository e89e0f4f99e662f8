"""The registry: names, third parties, hashes, and that a row depends on its own frame alone."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.cell import Cell
from analytic_patterns import disk_image, hexagonal_places, pattern_axes

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.change import changed
from edgetem_nodes.featurizer.features import ELECTRONVOLT, Features, finished
from edgetem_nodes.featurizer.parameters import (BraggStrain, Cbed, CenterOfMass, Descriptor, EdsWindow, EelsBandMaximum,
                                               EelsBandRatio, EelsPeak, Lattice, Orientation, Parameters, VirtualDetector)
from edgetem_nodes.graph.configuration import declared
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.scan import Axis

PATTERN = pattern_axes()
LOW_LOSS = (Axis("energy_loss", "J", 0.5 * ELECTRONVOLT, -20 * ELECTRONVOLT, 200),)
SPECTRUM = (Axis("energy_loss", "J", 8 * ELECTRONVOLT, 700 * ELECTRONVOLT, 162),)


class Brightest:
    """A third party's scalarizer: the `order`-th brightest pixel; refuses an order that does not exist, trips over 13."""

    names, units = ("brightest",), ("counts",)

    def __init__(self, settings, noise, axes):
        self.order = int(settings.get("order", 1))
        if self.order > np.prod([axis.size for axis in axes]):
            raise ValueError(f"order {self.order} is larger than the frame")

    def __call__(self, frames: np.ndarray) -> Features:
        if (frames == 13).any():
            raise RuntimeError("thirteen")
        chosen = np.sort(frames.reshape(len(frames), -1), axis=1)[:, -self.order].astype(float)
        return finished(chosen[:, None], chosen[:, None], [""] * len(frames))


@pytest.fixture
def third_party(monkeypatch):
    point = EntryPoint("brightest", f"{__name__}:Brightest", scalarizers.GROUP)
    broken = EntryPoint("broken", "there_is_no_such_module:Thing", scalarizers.GROUP)
    impostor = EntryPoint("lattice", f"{__name__}:Brightest", scalarizers.GROUP)
    monkeypatch.setattr(scalarizers, "entry_points", lambda group: [point, broken, impostor] if group == scalarizers.GROUP
                        else [])


def frames_for(name: str) -> tuple[np.ndarray, tuple[Axis, ...]]:
    rng = np.random.default_rng(7)
    if name in ("eels_plasmon", "eels_thickness"):
        energy = LOW_LOSS[0].values() / ELECTRONVOLT
        expected = 2e4 * np.exp(-energy**2 / 2) + 500 / (1 + ((energy - 22) / 4)**2) * (energy > 3)
        return rng.poisson(expected, (37, 200)) * 1.37, LOW_LOSS
    if name.startswith("e") or name == "total_counts":
        energy = SPECTRUM[0].values() / ELECTRONVOLT
        expected = 400 * (energy / 811)**-3 + 4000 * np.exp(-((energy - 1303.3) / 60)**2 / 2)
        return rng.poisson(expected, (37, 162)) * 1.37, SPECTRUM
    places = np.concatenate([[[0, 0]], hexagonal_places(3.16e-10, wavelength(80e3), np.diag([1.01, 0.99]))])
    expected = disk_image(places, np.r_[1e4, np.full(12, 300.0)], 2.0, PATTERN)
    return rng.poisson(expected, (37, 64, 64)) * 1.37, PATTERN


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A sample of patterns, and a crystal that has a hexagonal net of the sheet's size across its axis."""
    folder = tmp_path_factory.mktemp("learnt")
    np.save(folder / "sample.npy", frames_for("bragg_strain")[0][:20].reshape(4, 5, 64, 64))
    cell = Cell.fromcellpar([3.16, 3.16, 4.0, 90, 90, 120])
    Atoms("Mo", cell=cell, pbc=True).write(folder / "hexagonal.cif")
    return folder


def parameters_for(name: str, files: Path) -> Parameters:
    return Parameters(scalarizer=name, bragg_strain=BraggStrain("exx", str(files / "sample.npy"), "uniform"),
                      orientation=Orientation("in_plane", str(files / "hexagonal.cif"), thickness_nm=2.0, step_deg=4.0),
                      cbed=Cbed(reference_nm=[0.0, 0.316, 0.274, -0.158]),
                      counts_per_electron=1.37, center_of_mass=CenterOfMass("x", 25.0, [0.3, 0.1]),
                      eds_window=EdsWindow([0.93, 1.01], [0.75, 0.9, 1.1, 1.2]),
                      eels_band_ratio=EelsBandRatio([750.0, 900.0], [930.0, 1010.0]),
                      eels_peak=EelsPeak([1100.0, 1500.0], 80.0, "power_law", [750.0, 1000.0]),
                      eels_band_maximum=EelsBandMaximum([1100.0, 1500.0], 4, "constant", [1600.0, 1900.0]),
                      virtual_detector=VirtualDetector(1.0, 20.0, [0.3, 0.1], 30.0, 150.0, "asymmetry"))


@pytest.mark.parametrize("name", sorted(scalarizers.BUILT_IN))
def test_rows_do_not_depend_on_how_frames_are_cut_into_blocks(name, files):
    """Bit for bit, with values that are not whole numbers: a repeated run makes other blocks and must decide alike."""
    frames, axes = frames_for(name)
    scalarizer = scalarizers.build(parameters_for(name, files), axes)
    whole = scalarizer(frames)
    assert whole.valid.all(), whole.failures
    for size in (1, 2, 5, 16):
        parts = [scalarizer(frames[start:start + size]) for start in range(0, len(frames), size)]
        assert np.concatenate([part.values for part in parts]).tobytes() == whole.values.tobytes()
        assert np.concatenate([part.standard_errors for part in parts]).tobytes() == whole.standard_errors.tobytes()


@pytest.mark.parametrize("name", sorted(scalarizers.BUILT_IN))
def test_columns_units_and_empty_blocks(name, files):
    frames, axes = frames_for(name)
    scalarizer = scalarizers.build(parameters_for(name, files), axes)
    assert len(scalarizer.names) == len(set(scalarizer.names)) == len(scalarizer.units)
    nothing = scalarizer(frames[:0])
    assert nothing.values.shape == (0, len(scalarizer.names))
    assert nothing.failures == []


def test_large_maps_are_worked_on_in_chunks(monkeypatch, files):
    frames, axes = frames_for("lattice")
    whole = scalarizers.measure(frames, axes, parameters_for("lattice", files))
    monkeypatch.setattr(scalarizers, "CHUNK", frames[:5].nbytes)
    parts = scalarizers.measure(frames, axes, parameters_for("lattice", files))
    assert parts.values.tobytes() == whole.values.tobytes()
    assert parts.details["deformation"].shape == (37, 2, 2)


def test_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(ValueError, match=r"scalarizer 'eels_egde' is not known.*did you mean 'eels_edge'\?"):
        scalarizers.define(Parameters(scalarizer="eels_egde"))


def test_label_names_the_scalar():
    scalarizer = scalarizers.build(Parameters(scalarizer="eels_edge", label="Cu-L net"), SPECTRUM)
    assert scalarizer.names[0] == "Cu-L net"


def test_hash_tells_settings_apart_and_nothing_else():
    one = scalarizers.define(Parameters(scalarizer="eels_edge"))
    assert one.hash == scalarizers.define(Parameters(scalarizer="eels_edge", label="x", preview_period_s=9.0)).hash
    other = Parameters(scalarizer="eels_edge")
    other.eels_edge.signal_eV = [930.0, 1011.0]
    assert one.hash != scalarizers.define(other).hash
    assert one.hash != scalarizers.define(Parameters(scalarizer="eels_edge", counts_per_electron=2.0)).hash
    assert len(one.hash) == 64


def test_third_party_scalarizer_is_found_and_gets_its_settings(third_party):
    scalarizer = scalarizers.build(Parameters(scalarizer="brightest", settings='{"order": 2}'), SPECTRUM)
    assert scalarizer(np.arange(100.0, 262.0)[None]).values[0, 0] == 260
    assert scalarizers.define(Parameters(scalarizer="lattice")).factory is scalarizers.BUILT_IN["lattice"]


def test_exception_in_a_scalarizer_marks_the_rows(third_party):
    scalarizer = scalarizers.build(Parameters(scalarizer="brightest"), SPECTRUM)
    features = scalarizer(np.full((3, 162), 13))
    assert features.failures == ["scalarizer brightest failed: RuntimeError: thirteen"] * 3
    assert np.isnan(features.values).all()


@pytest.mark.parametrize(("parameters", "message"), [
    (Parameters(scalarizer="broken"), "broken.*cannot be loaded.*there_is_no_such_module"),
    (Parameters(scalarizer="brightest", settings="{order}"), "is not JSON"),
    (Parameters(scalarizer="brightest", settings="[1]"), "must be a JSON object"),
    (Parameters(scalarizer="lattice", settings="{}"), "built in and takes them from"),
    (Parameters(scalarizer="brightest", settings='{"order": 999}'), "order 999 is larger than the frame"),
])
def test_third_party_mistakes_are_refused(third_party, parameters, message):
    with pytest.raises(ValueError, match=message):
        scalarizers.build(parameters, SPECTRUM)


def test_descriptor_is_a_column_of_another_scalarizer(third_party):
    frames, axes = frames_for("lattice")
    chosen = Parameters(scalarizer="descriptor", descriptor=Descriptor("lattice", "rotation"), label="turn")
    whole, features = scalarizers.measure(frames, axes, Parameters()), scalarizers.measure(frames, axes, chosen)
    names = scalarizers.build(Parameters(), axes).names
    assert scalarizers.build(chosen, axes).names == ("turn", "dilation", "exx", "eyy", "exy", "lattice_chi_square",
                                                     "disk_counts")
    assert np.array_equal(features.values[:, 0], whole.values[:, names.index("rotation")])
    assert np.array_equal(features.standard_errors[:, 0], whole.standard_errors[:, names.index("rotation")])
    plugin = Parameters(scalarizer="descriptor", descriptor=Descriptor("brightest", "brightest"), settings='{"order": 3}')
    assert scalarizers.measure(np.arange(100.0, 262.0)[None], SPECTRUM, plugin).values[0, 0] == 259
    hashes = {scalarizers.define(Parameters(scalarizer="descriptor", descriptor=Descriptor("brightest", "brightest"),
                                            settings=settings)).hash for settings in ("", '{"order": 3}')}
    assert len(hashes) == 2


@pytest.mark.parametrize(("descriptor", "message"), [
    (Descriptor("lattice", "rotatoin"), r"no column of 'lattice'.*did you mean 'rotation'\?"),
    (Descriptor("latice", "exx"), r"scalarizer 'latice' is not known.*did you mean 'lattice'\?"),
    (Descriptor("descriptor", "exx"), "name the scalarizer that makes the columns"),
])
def test_descriptor_refuses_what_there_is_not(descriptor, message):
    with pytest.raises(ValueError, match=message):
        scalarizers.build(Parameters(scalarizer="descriptor", descriptor=descriptor), PATTERN)


@pytest.mark.parametrize("component", ["dilation", "exx", "eyy", "exy", "rotation"])
def test_every_component_of_the_lattice_can_be_the_scalar(component):
    frames, axes = frames_for("lattice")
    parameters = Parameters(lattice=Lattice(component=component))
    names = scalarizers.build(Parameters(), axes).names
    assert scalarizers.build(parameters, axes).names[0] == component
    assert np.array_equal(scalarizers.measure(frames, axes, parameters).values[:, 0],
                          scalarizers.measure(frames, axes, Parameters()).values[:, names.index(component)])


def test_frames_of_another_shape_than_their_axes_are_failures():
    features = scalarizers.build(Parameters(scalarizer="total_counts"), SPECTRUM)(np.ones((2, 161)))
    assert not features.valid.any()
    assert "do not fit the axes" in features.failures[0]


def test_every_parameter_says_what_it_is():
    for parameter in declared(Parameters).values():
        assert len(parameter.rule.description) > 8, parameter.name


def installed_example(folder: Path) -> str:
    """Install the two files of the documentation's example in a folder, as pip lays them out; returns the entry point."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "featurizer.md").read_text()
    (folder / "my_scalarizers.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1))
    project = tomllib.loads(re.search(r"```toml\n(.*?)```", text, re.DOTALL).group(1))["project"]
    (points,) = project["entry-points"][scalarizers.GROUP].items()
    information = folder / f"my_scalarizers-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (information / "entry_points.txt").write_text(f"[{scalarizers.GROUP}]\n{points[0]} = {points[1]}\n")
    return points[0]


def test_example_of_the_documentation_works(monkeypatch, tmp_path):
    """Found by the package's entry point, as a user's is."""
    name = installed_example(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert name in scalarizers.available()
    frames = np.ones((3, 162), np.uint16)
    frames[:, 5] = 100
    frames[1] = 0
    features = scalarizers.measure(frames, SPECTRUM, Parameters(scalarizer=name, settings='{"smallest_mean": 0.5}'))
    assert features.valid.tolist() == [True, False, True]
    assert features.values[0, 0] == pytest.approx(100 / (261 / 162))
    changed_to = changed(Parameters(), name, '{"settings": {"smallest_mean": 5}, "label": "contrast"}')
    assert not scalarizers.measure(frames, SPECTRUM, changed_to).valid.any()
    assert scalarizers.build(changed_to, SPECTRUM).names == ("contrast",)
    sys.modules.pop("my_scalarizers", None)
