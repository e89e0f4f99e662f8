"""Pictures of extreme data are drawn as they should be, and the map that a run is judged by is of the specimen at rest."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from edgetem_nodes.graph.configuration import load_configuration
from edgetem_nodes.operator import evaluation, figures
from edgetem_nodes.operator.experiment import SCHEMAS
from edgetem_nodes.physics.scan import Axis

ENERGIES = Axis("energy", "J", figures.ELECTRONVOLT, 0.0, 400)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that was drawn last, kept open until it has been looked at."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or path)
    yield kept
    for figure in kept:
        plt.close(figure)


def test_a_saturated_pattern_is_brightest_where_it_is_saturated(drawn, tmp_path):
    counts = np.zeros((8, 8), np.uint16)
    counts[3, 4] = np.iinfo(np.uint16).max
    angles = [Axis(name, "rad", 1e-3, -4e-3, 8) for name in ("ky", "kx")]
    figures.pattern(counts, angles, "pattern", tmp_path / "pattern.png")
    shown = np.asarray(drawn[0].axes[0].images[0].get_array())
    assert np.isfinite(shown).all()
    assert shown.max() == shown[3, 4] == pytest.approx(np.log10(65536))


@pytest.mark.parametrize(("peak", "scale"), [(500, "linear"), (5e6, "log")])
def test_a_spectrum_over_more_than_three_decades_has_a_logarithmic_axis(drawn, tmp_path, peak, scale):
    counts = np.ones(400)
    counts[20] = peak
    counts[300:] = 0
    figures.spectrum(counts, ENERGIES, "spectrum", tmp_path / "spectrum.png", np.zeros(400))
    assert drawn[0].axes[0].get_yscale() == scale


CONFIGURATION = """
/**:
  ros__parameters:
    instrument:
      driver: simulated
      simulated:
        rows: 8
        columns: 8
        field_nm: 8.0
        instabilities: {INSTABILITIES}
        damage: {DAMAGE}
"""


def full_map(folder, instabilities: str, damage: str) -> evaluation.FullMap:
    path = folder / "experiment.yaml"
    path.write_text(CONFIGURATION.replace("{INSTABILITIES}", instabilities).replace("{DAMAGE}", damage))
    configuration = load_configuration(path, SCHEMAS)
    instrument = configuration.parameters("detector", SCHEMAS["detector"]).instrument
    from edgetem_nodes.microscope.drivers import make_driver

    driver = make_driver(instrument, 0)
    return evaluation.measure_full_map(configuration, driver.field)


def test_the_full_map_of_a_simulated_run_is_that_of_the_specimen_at_rest(tmp_path):
    calm = full_map(tmp_path, "{}", "{}")
    drifting = full_map(tmp_path, "{drift_nm_per_min: 900.0, current_drift_percent_per_h: -900.0}",
                        "{contamination: true, displacement: true}")
    assert np.isfinite(calm.values).any()
    assert np.array_equal(calm.values, drifting.values, equal_nan=True)
    rotated = full_map(tmp_path, "{scan_rotation_mrad: 1500.0}", "{}")
    assert not np.array_equal(calm.values, rotated.values, equal_nan=True), "errors of the scan that stay are the run's own"
