"""Every benchmark runs in its quick form and its last line is a record with the keys that are promised."""

import json
import subprocess

import pytest
from command_line import COMMAND

from edgetem_nodes.graph.environment import share_directory

KEYS = {
    "transport": "mb_per_s frames_per_s block_bytes sent received lost",
    "graph": "frames_per_s frame_shape seconds sent measured archived lost peak_rss_mb",
    "cbed": "patterns_per_cpu_s abtem_multislice_per_cpu_s abtem_prism_per_cpu_s r_factor device cases",
    "dkl": "cases peer",
    "sampling": "cases",
    "virtual-detectors": "frames_per_s libertem_frames_per_s memcpy_mb_per_s mb_per_s ratio_libertem ratio_memcpy cases",
    "ssb": "complex_relative_rms frames_per_cpu_s libertem_frames_per_cpu_s ratio_libertem phase_correlation",
    "descriptors": "strain_mae rotation_mae_deg thickness_mae_nm lattice_mae phase_accuracy defect_precision defect_recall "
                   "coverage90 rejection_auc patterns_per_s device bragg_strain_mae",
    "hpc": "overhead_ms_per_job jobs lost run_twice peak_rss_mb",
    "compression": "cases",
    "compressed-analysis": "frames_per_s decode_then_compute_frames_per_s libertem_frames_per_s ratio_libertem dose",
    "recorder": "mb_per_s messages_per_s disk_mb_per_s lost cpu_us_per_message",
    "twin": "sessions detection_rate false_alarm_rate median_frames_to_detect",
    "drift": "",
    "energy-map": "seeds target_eV_per_nm2 cases",
}
"""Of a record, by benchmark; those that are not there yet are not run."""
CASES = {
    "dkl": "n candidates seconds cpu_seconds r2_unseen",
    "sampling": "dataset method goal discovery_dose_ratio rmse_ratio coverage90 localised",
    "energy-map": "footprint_nm2 radius_nm points correlation share_095 rmse coverage90 coverage90_rich holds",
    "compression": "data codec ratio bits_per_pixel floor_ratio encode_mb_per_s decode_mb_per_s lossless",
}
"""Of every case of a record."""
COMMON = "name version cpu threads quick"
BENCHMARKS = sorted(path.stem for path in (share_directory() / "bench").glob("*.py"))


def test_every_benchmark_has_keys():
    assert set(BENCHMARKS) <= set(KEYS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_and_has_its_keys(name):
    done = subprocess.run([str(COMMAND), "bench", name, "--quick", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert set(f"{COMMON} {KEYS[name]}".split()) <= set(record)
    assert record["name"] == name and record["quick"] is True
    for case in record.get("cases", []):
        assert set(CASES.get(name, "").split()) <= set(case)
