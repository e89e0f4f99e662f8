"""Specimens by name, and those that somebody adds."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest

from edgetem_nodes.physics.specimens import Atoms, Condition, catalogue

EXTENT = (10e-9, 10e-9)


class Chain:
    """A row of carbon atoms along x, as somebody's own specimen."""

    thickness, crystalline, quantities = 1e-10, False, {"spacing": "m"}

    def __init__(self, name, extent, seed, options):
        self.name = name

    def atoms(self, low, high, condition):
        index = np.arange(np.ceil(low[1] / 2e-10), np.ceil(high[1] / 2e-10), dtype=np.int64)
        index = index if low[0] <= 5e-9 < high[0] else index[:0]
        places = np.stack([np.zeros(len(index)), np.full(len(index), 5e-9), index * 2e-10], axis=-1)
        return Atoms(places, np.full(len(index), 6), np.full(len(index), 5e-12), index.astype(np.uint64))

    def truth(self, quantity, positions, condition):
        return np.full(len(positions), 2e-10)

    def layers(self, positions, condition):
        return {"carbon": np.zeros(len(positions))}

    def edge_distance(self, positions):
        return None


class Broken:
    def __init__(self, *_):
        raise AssertionError("never built")


@pytest.fixture
def added(monkeypatch):
    points = [EntryPoint("chain", "test_catalogue:Chain", catalogue.GROUP),
              EntryPoint("absent", "no_such_module:Thing", catalogue.GROUP),
              EntryPoint("MoS2", "test_catalogue:Broken", catalogue.GROUP)]
    monkeypatch.setattr(catalogue, "entry_points", lambda group: points if group == catalogue.GROUP else [])


@pytest.mark.parametrize("name", [name for name in catalogue.SPECIMENS if name != "file"])
def test_every_specimen_keeps_the_protocol(name):
    specimen = catalogue.make_specimen(name, EXTENT, 1)
    atoms = specimen.atoms(np.array([4e-9, 4e-9]), np.array([6e-9, 6e-9]), Condition())
    assert specimen.name == name
    assert ((atoms.positions[:, 1:] >= 4e-9) & (atoms.positions[:, 1:] < 6e-9)).all()
    assert 0 <= atoms.positions[:, 0].min() <= atoms.positions[:, 0].max() <= specimen.thickness * (1 + 1e-9)
    assert len(np.unique(atoms.identity)) == len(atoms.identity) > 0
    places = np.array([[5e-9, 5e-9], [2e-9, 7e-9]])
    for quantity in specimen.quantities:
        assert specimen.truth(quantity, places, Condition()).shape == (2,)
    with pytest.raises(ValueError, match="colour"):
        specimen.truth("colour", places, Condition())
    for thickness in specimen.layers(places, Condition()).values():
        assert thickness.shape == (2,) and (thickness >= 0).all()


def test_an_added_specimen_is_simulated_like_the_others(added):
    from edgetem_nodes.graph.instrument import Instrument, Simulated, simulation
    from edgetem_nodes.physics.exposure import Exposure

    microscope = simulation(Instrument(simulated=Simulated(specimen="chain", rows=8, columns=8, field_nm=10.0)), 0)
    field = microscope.settings.field
    on = int(np.abs(field.positions() - 5e-9).sum(axis=1).argmin())
    path = Exposure(0, 0.0, field.positions([0, on]), 1e-3, 1e-3, microscope.settings.optics)
    far, near = microscope.expected(path, 0, 2)
    assert np.abs(near - far).sum() > 1e-3
    assert microscope.truth("spacing")[1] == pytest.approx(2e-10)


def test_built_in_names_cannot_be_taken_over(added):
    assert catalogue.make_specimen("MoS2", EXTENT, 0).name == "MoS2"


def test_what_cannot_be_had_is_refused(added):
    with pytest.raises(ValueError, match="specimen 'MoS3' is not known.*did you mean 'MoS2'"):
        catalogue.make_specimen("MoS3", EXTENT, 0)
    with pytest.raises(ValueError, match="'absent' cannot be loaded from no_such_module:Thing"):
        catalogue.make_specimen("absent", EXTENT, 0)
