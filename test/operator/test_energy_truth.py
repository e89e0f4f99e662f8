"""The truth about a sheet's energy and what maps are judged by: elasticity, counting, numbers worked out by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from edgetem_nodes.operator.energetics.engine_energies import ELECTRONVOLT, SheetEngine, StrainEnergyLaw
from edgetem_nodes.operator.energetics.evaluation import Accuracy, SiteEnergies, evaluate
from edgetem_nodes.operator.energetics.true_sheet import TrueSheet
from edgetem_nodes.operator.energetics.truth import EnergyTruth, energy_truth
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.physics.settings import Settings
from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

FIELD = ScanField((0.0, 0.0), (0.5e-9, 0.5e-9), (20, 20))
OPTIONS = SpecimenOptions(strain=0.03, rim_width=1.5e-9, domain_size=0.0, vacancy_density=0.15e18, irradiated_radius=2e-9)
C11, C12 = 350.0, 60.0
VACANCY = 7.7


def settings(options=OPTIONS, specimen="graphene"):
    return Settings(specimen, options, FIELD, Probe(80e3, 2e-3), 40e-12, Camera(32, 2.5e-3))


class Elastic(SheetEngine):
    """An engine that knows linear elasticity in the Green-Lagrange strain, and that a missing atom costs so much."""

    def __init__(self):
        super().__init__("graphene")
        self.asked = []

    def excess(self, structure, host=None):
        whole = host or structure
        perfect = self.perfect(round(math.sqrt(len(whole.atomic_numbers) / 2)))
        plane = np.linalg.solve(perfect.cell[:2, :2], whole.cell[:2, :2]).T
        green = (plane.T @ plane - np.eye(2)) / 2
        area = abs(np.linalg.det(perfect.cell[:2, :2]))
        energy = area * (C11 / 2 * (green[0, 0] ** 2 + green[1, 1] ** 2) + C12 * green[0, 0] * green[1, 1]
                         + (C11 - C12) * green[0, 1] ** 2)
        missing = len(whole.atomic_numbers) - len(structure.atomic_numbers)
        self.asked.append(structure)
        return SimpleNamespace(excess_energy=energy + missing * VACANCY * ELECTRONVOLT)


@pytest.fixture(scope="module")
def sheet():
    return TrueSheet.of(settings(), 3)


@pytest.fixture(scope="module")
def truth(sheet):
    return energy_truth(sheet, FIELD, Elastic())


def test_a_specimen_that_is_no_known_sheet_has_no_truth():
    with pytest.raises(ValueError, match="'file' is none of the sheets whose energy can be computed: .*graphene"):
        SheetEngine("file")


def test_the_law_of_strain_energy_is_that_of_the_engine():
    engine = Elastic()
    law = StrainEnergyLaw.fitted(engine, 0.03)
    assert len(engine.asked) == law.points == 36
    generator = np.random.default_rng(5)
    tried = np.eye(2) + generator.uniform(-0.02, 0.02, (50, 2, 2))
    turn = np.array([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    expected = np.array([engine.excess(engine.perfect(3, one)).excess_energy for one in tried])
    expected /= abs(np.linalg.det(engine.perfect(3).cell[:2, :2]))
    assert law(tried) == pytest.approx(expected, abs=1e-4), "J/m^2, of up to 0.3"
    assert law(turn @ tried) == pytest.approx(law(tried), abs=1e-12), "turning a sheet costs nothing"
    assert law.residual < 1e-4


def test_true_sheet_knows_strain_and_defects_of_the_specimen(sheet):
    specimen = make_specimen("graphene", settings().extent, 3, OPTIONS)
    inside = FIELD.contains(sheet.places)
    strain = (sheet.deformation + np.swapaxes(sheet.deformation, 1, 2)) / 2 - np.eye(2)
    for name, found in (("strain_xx", strain[:, 0, 0]), ("strain_yy", strain[:, 1, 1]), ("strain_xy", strain[:, 0, 1])):
        expected = specimen.truth(name, sheet.places[inside], Condition())
        off = np.abs(found[inside] - expected)
        # the atoms around average over 0.25 nm, which is seen where the outline's middle makes the strain uneven
        assert np.percentile(off, 99) < 8e-4 and np.sqrt(np.mean(off ** 2)) < 3e-4, name
    low, high = np.array([-0.25e-9, -0.25e-9]), np.array([9.75e-9, 9.75e-9])
    there = specimen.atoms(low, high, Condition())
    within = ((sheet.places >= low) & (sheet.places < high)).all(axis=1)
    assert (sheet.occupied[within] > 0).sum() == len(there.atomic_numbers)
    assert len(sheet.defective) > 5 and (sheet.occupied[sheet.defective] == 0).all()
    joined = sheet.clusters()
    assert sorted(np.concatenate(joined)) == sorted(sheet.defective), "every defect is in one cluster"


def test_a_cluster_is_cut_into_a_sheet_as_it_is(sheet):
    engine = Elastic()
    energy_truth(sheet, FIELD, engine)
    largest = max(sheet.clusters(), key=len)
    sizes = {98 - len(structure.atomic_numbers) for structure in engine.asked[36:]}
    assert sizes == {len(cluster) for cluster in sheet.clusters()} and len(largest) >= 1
    for structure in engine.asked[36:]:
        assert structure.cell == pytest.approx(engine.perfect(7).cell), "without strain"


def test_energies_add_up_to_strain_and_vacancies(sheet, truth):
    whole = FIELD.contains(sheet.places)
    vacancies = (sheet.occupied[whole] == 0).sum()
    assert truth.defects[whole].sum() == pytest.approx(VACANCY * vacancies, rel=1e-9)
    # a disc around everything holds the energy of the whole field
    strain, defects = truth.averaged(20e-9, np.array([[5e-9, 5e-9]]))
    assert defects[0] * 100 == pytest.approx(VACANCY * vacancies, rel=1e-6)
    assert strain[0] * 100 == pytest.approx(truth.strain[whole].sum(), rel=1e-6)
    assert sum(c.count * c.energy for c in truth.clusters) == pytest.approx(VACANCY * vacancies, rel=0.35), "at the border"


def test_an_evenly_strained_sheet_has_its_energy_density_everywhere():
    even = np.diag([1.02, 1.01])
    perfect = TrueSheet.of(settings(SpecimenOptions(strain=0.0, domain_size=0.0, vacancy_density=0.0)), 0)
    centre = np.array([4.75e-9, 4.75e-9])
    moved = replace(perfect, places=centre + (perfect.places - centre) @ even[::-1, ::-1].T,
                    deformation=np.broadcast_to(even, perfect.deformation.shape).copy())
    truth = energy_truth(moved, FIELD, Elastic())
    strain, defects = truth.averaged(1.5e-9)
    green = (np.array([1.02, 1.01]) ** 2 - 1) / 2
    density = (C11 / 2 * (green ** 2).sum() + C12 * green.prod()) / np.linalg.det(even) / ELECTRONVOLT * 1e-18
    assert np.median(strain) == pytest.approx(density, rel=0.01)
    assert np.abs(strain / density - 1).max() < 0.2, "discs at the border hold few atoms"
    assert not defects.any()


def test_cells_that_tile_the_sheet_hold_every_site_once(truth):
    cell = np.array([[1.5e-9, 0.2e-9], [-0.6e-9, 1.4e-9]])
    area, steps = abs(np.linalg.det(cell)) * 1e18, np.arange(-20, 21)
    tiles = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) @ cell + [5e-9, 5e-9]
    whole = (truth.strain + truth.defects).sum()
    assert sum(truth.in_cell(place, cell) for place in tiles) * area == pytest.approx(whole, rel=1e-9)
    # one that is smaller than a bond, about a defect
    defect = truth.places[np.argmax(truth.defects)]
    small = 0.1e-9 * np.eye(2)
    assert truth.in_cell(defect, small) * 0.01 == pytest.approx((truth.strain + truth.defects)[np.argmax(truth.defects)])
    sites = SiteEnergies(defect[None], np.zeros(1), np.ones(1), np.array([1e-20]), small[None])
    assert sites.true(truth)[0] == pytest.approx(truth.in_cell(defect, small))


def test_truth_is_kept_under_its_key(tmp_path, truth):
    path = tmp_path / "truth.npz"
    truth.save(path, "this")
    assert EnergyTruth.load(path, "that", FIELD) is None
    again = EnergyTruth.load(path, "this", FIELD)
    assert np.array_equal(again.averaged(1e-9), truth.averaged(1e-9)) and again.clusters == truth.clusters
    assert again.law(np.array([np.diag([1.01, 1.0])])) == pytest.approx(truth.law(np.array([np.diag([1.01, 1.0])])))
    assert EnergyTruth.load(tmp_path / "none.npz", "this", FIELD) is None


@pytest.mark.parametrize("specimen", ["SrTiO3", "gold"])
def test_there_is_no_energy_truth_of_other_specimens(specimen):
    with pytest.raises(ValueError, match=f"no energy map of the true {specimen}"):
        TrueSheet.of(settings(specimen=specimen), 0)
    with pytest.raises(ValueError, match="of one grain"):
        TrueSheet.of(settings(replace(OPTIONS, grain_size=5e-9)), 0)


def test_accuracy_is_error_bias_and_coverage():
    true, deviation = np.zeros(4), np.ones(4)
    found = Accuracy.of(np.array([1.0, -1.0, 2.0, 0.0]), deviation, true, 1.3)
    assert found.error == pytest.approx(math.sqrt(6 / 4)) and found.bias == pytest.approx(0.5)
    assert found.error_footprint == pytest.approx(1.3 * found.error) and found.coverage90 == 0.75
    assert Accuracy.of(np.zeros(0), np.zeros(0), np.zeros(0), 1.0).count == 0


def test_a_map_that_is_off_by_its_stated_error_is_judged_so(truth):
    generator = np.random.default_rng(2)
    strain, defects = (part.reshape(20, 20) for part in truth.averaged(1e-9))
    deviation = np.full((20, 20), 0.3)
    mean = strain + defects + generator.normal(0.0, 0.3, (20, 20))
    places = FIELD.positions(np.array([45, 210, 333]))
    sites = SiteEnergies(places, np.array([sum(p[0] for p in truth.averaged(0.64e-9, place[None])) for place in places]),
                         np.full(3, 0.1), np.full(3, math.pi * 0.64e-9 ** 2), np.full((3, 2, 2), np.nan))
    maps = [(5, np.zeros((20, 20)), np.full((20, 20), 2.0)), (30, mean, deviation)]
    judged = evaluate(truth, maps, sites, 1e-9, 0.3, 30)
    # of 400 Gaussian errors 90 % +- 1.5 % lie within the interval; the root mean square scatters by 3.5 %
    assert judged.whole.coverage90 == pytest.approx(0.9, abs=0.06) and judged.within_target == judged.whole.coverage90
    assert judged.whole.error == pytest.approx(0.3, rel=0.15) and abs(judged.whole.bias) < 0.06
    assert judged.sites.error == pytest.approx(0.0, abs=1e-6) and judged.sites.coverage90 == 1.0
    assert judged.positions_share == pytest.approx(0.075)
    assert [step.points for step in judged.course] == [5, 30] and judged.course[0].largest_deviation == 2.0
    assert sum(one.count for one in judged.apart.values()) == 400
    assert (judged.true_defects[judged.regions == 0] > 0.2 * judged.true_defects.max()).all()
    tight = evaluate(truth, maps, sites, 1e-9, 0.1, 30)
    assert tight.verdict.startswith("does not hold: target 0.1") and evaluate(truth, maps, sites, 1e-9, 0.0, 30).verdict \
        == "no target was set"
    exact = evaluate(truth, [(30, strain + defects, deviation)], sites, 1e-9, 0.1, 30)
    assert exact.correlation == pytest.approx(1.0) and exact.verdict.startswith("holds")


def test_figures_are_written_without_numbers_that_are_none(truth, tmp_path):
    import json

    sites = SiteEnergies(np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 2, 2)))
    judged = evaluate(truth, [(1, np.zeros((20, 20)), np.ones((20, 20)))], sites, 1e-9, 0.0, 1)
    judged.save(tmp_path / "figures.json")
    told = json.loads((tmp_path / "figures.json").read_text())
    assert told["site_correlation"] is None and told["whole"]["count"] == 400
    assert told["truth"]["defects"][0][0].endswith("V_C") or "V_C" in told["truth"]["defects"][0][0]


@pytest.mark.slow
def test_tight_binding_makes_a_vacancy_cost_what_is_known():
    engine = SheetEngine("graphene")
    whole = engine.perfect(7)
    kept = np.ones(98, bool)
    kept[40] = False
    vacancy = replace(whole, atomic_numbers=whole.atomic_numbers[kept], positions=whole.positions[kept])
    energy = engine.excess(vacancy, whole).excess_energy / ELECTRONVOLT
    assert 7.3 < energy < 8.1, "7.5 to 7.8 eV (El-Barbary et al., Phys. Rev. B 68, 144107, 2003; and later work)"
    assert engine.excess(whole).excess_energy / ELECTRONVOLT == pytest.approx(0.0, abs=0.01)
