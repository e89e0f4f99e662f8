"""Write the synthetic spectrum image and its survey image in HyperSpy's format: `python make_synthetic.py [FOLDER]`.

The files lie in the repository, so that the path of measured data is tested everywhere; this script makes them again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rsciio.hspy import file_writer

from edgetem_nodes.physics.spectra import particles_on_carbon

SEED = 2026


def axis(name: str, size: int, scale: float, offset: float, unit: str, navigate: bool) -> dict:
    """One axis as HyperSpy describes it."""
    return {"_type": "UniformDataAxis", "name": name, "size": size, "scale": scale, "offset": offset, "units": unit,
            "navigate": navigate, "is_binned": False}


def signal(title: str, kind: str, data: np.ndarray, axes: list[dict]) -> dict:
    """A signal as RosettaSciIO writes it."""
    return {"data": data, "axes": axes, "original_metadata": {},
            "package_info": {"package": "edgetem", "package_version": ""}, "learning_results": {}, "models": {},
            "tmp_parameters": {}, "attributes": {"_lazy": False, "ragged": False},
            "metadata": {"General": {"title": title}, "Signal": {"signal_type": kind},
                         "Acquisition_instrument": {"TEM": {"beam_energy": 200.0, "convergence_angle": 20.0,
                                                            "Detector": {"EELS": {"collection_angle": 40.0}}}}}}


def write(folder: Path) -> None:
    """Write `synthetic_eels.hspy` and `synthetic_haadf.hspy` into the folder."""
    image = particles_on_carbon(SEED)
    rows, columns, channels = image.counts.shape
    step = image.step * 1e9

    def scan(navigate: bool) -> list[dict]:
        return [axis("y", rows, step, 0.0, "nm", navigate), axis("x", columns, step, 0.0, "nm", navigate)]

    loss = axis("Energy loss", channels, float(image.energy[1] - image.energy[0]), float(image.energy[0]), "eV", False)
    file_writer(str(folder / "synthetic_eels.hspy"),
                signal("Synthetic EELS", "EELS", image.counts, [*scan(True), loss]), chunks=(8, 10, channels))
    file_writer(str(folder / "synthetic_haadf.hspy"), signal("Synthetic HAADF", "", image.dark_field, scan(False)))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
