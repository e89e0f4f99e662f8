"""Programs that know nothing of edgetem read the archive: emdfile (py4DSTEM's reader) and plain h5py."""

from __future__ import annotations

import uuid

import emdfile
import h5py
import hdf5plugin  # noqa: F401
import numpy as np
from archive_samples import FIELD, new_archive, poisson_frames, write_acquisition

from edgetem_nodes.archive.contents import ExperimentRecord, FieldMap, Survey


def test_emdfile_reads_frames_axes_overview_maps_and_metadata(tmp_path):
    frames = poisson_frames(5, 13, (12, 10))
    generator = np.random.default_rng(0)
    identifier = uuid.uuid4()
    with new_archive(tmp_path) as archive:
        archive.write_experiment(ExperimentRecord(identifier, "a: 1\n", "0.1.0", 5))
        archive.write_overview(Survey(uuid.uuid4(), FIELD, ("haadf",), generator.random((1, 6, 8)), 5.0, 1))
        write_acquisition(archive, frames, 4)
        archive.write_map(FieldMap(identifier, 3, FIELD, "scalar", "eV", *generator.random((3, 6, 8))))
    root = emdfile.read(tmp_path / "archive.h5")
    assert isinstance(root, emdfile.Root)
    assert root.metadata["experiment"]["config"] == "a: 1\n" and root.metadata["experiment"]["seed"] == 5
    array = root.tree("acquisition_0000/frames")
    assert array.data.dtype == np.uint16 and np.array_equal(array.data, frames)
    assert array.dim_names == ("frame", "ky", "kx") and array.dim_units == ("pixels", "rad", "rad")
    np.testing.assert_array_equal(array.dims[2], -0.01 + 1.3e-3 * np.arange(10))
    positions = root.tree("acquisition_0000/positions")
    assert positions.units == "m" and positions.data.shape == (13, 2)
    assert root.tree("acquisition_0000").metadata["acquisition"]["dwell_time_s"] == 1e-3
    assert root.tree("acquisition_0000").metadata["outcome"]["status"] == "complete"
    overview = root.tree("overview_0000")
    assert list(overview.slicelabels) == ["haadf"] and overview.dim_units == ("m", "m")
    np.testing.assert_allclose(overview.dims[1], -2e-9 + 0.25e-9 * np.arange(8), atol=1e-24)
    assert list(root.tree("map_0003").slicelabels) == ["mean", "standard_deviation", "acquisition"]


def test_the_header_is_that_of_emd_1_0(tmp_path):
    with new_archive(tmp_path) as archive:
        write_acquisition(archive, poisson_frames(5, 3))
    with h5py.File(tmp_path / "archive.h5") as file:
        assert (file.attrs["emd_group_type"], file.attrs["version_major"], file.attrs["version_minor"]) == ("file", 1, 0)
        assert file["experiment"].attrs["emd_group_type"] == "root"
        assert uuid.UUID(file.attrs["UUID"])
        group = file["experiment/acquisition_0000"]
        assert uuid.UUID(group.attrs["id"])
        assert group["frames/data"].chunks is not None and "32026" in group["frames/data"]._filters
