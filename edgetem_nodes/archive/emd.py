"""The EMD 1.0 layout in HDF5 (https://emdatasets.com/format): file header, root, nodes, arrays, metadata.

`emdfile` and py4DSTEM read what is written here: a root group, under it nodes; an array node holds `data` and one
dataset `dim0`, `dim1`, ... a dimension with its values, name and unit; texts and numbers live in `metadatabundle`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np

from edgetem_nodes.physics.scan import Axis

VERSION = (1, 0)
ROOT = "experiment"
PIXELS = "pixels"


def write_header(file: h5py.File, archive_id: uuid.UUID, program: str) -> None:
    """Mark the file as EMD 1.0 and make its root group."""
    file.attrs["emd_group_type"] = "file"
    file.attrs["version_major"], file.attrs["version_minor"] = VERSION
    file.attrs["version_release"] = 0
    file.attrs["UUID"] = str(archive_id)
    file.attrs["authoring_program"] = program
    file.attrs["authoring_user"] = ""
    root = file.create_group(ROOT)
    root.attrs["emd_group_type"], root.attrs["python_class"] = "root", "Root"


def is_emd(file: h5py.File) -> bool:
    """Whether the file has an EMD 1.0 header and our root group."""
    return (file.attrs.get("emd_group_type") == "file" and file.attrs.get("version_major") == VERSION[0]
            and ROOT in file and "UUID" in file.attrs)


def is_locked(error: OSError) -> bool:
    """Whether a file could not be opened because a writer, in this process or another, has it open."""
    return "unable to lock file" in str(error) or "locking flag" in str(error)


def make_node(parent: h5py.Group, name: str) -> h5py.Group:
    """A node that holds other nodes and metadata, no data."""
    group = parent.create_group(name)
    group.attrs["emd_group_type"], group.attrs["python_class"] = "node", "Node"
    return group


def make_array(parent: h5py.Group, name: str, unit: str, dimensions: Sequence[Axis], labels: Sequence[str] = (),
               **dataset: Any) -> h5py.Dataset:
    """An array node; returns its dataset `data`.

    Parameters
    ----------
    unit : of the values.
    dimensions : axis of each dimension. An axis of size 2 stands for a linear dimension of any length, as in `running`.
    labels : names of the slices along the FIRST dimension, which then has no entry in `dimensions` (an EMD stack).
    dataset : arguments of `h5py.Group.create_dataset` (data, or shape, dtype, maxshape, chunks, ...).
    """
    group = parent.create_group(name)
    group.attrs["emd_group_type"], group.attrs["python_class"] = "array", "Array"
    data = group.create_dataset("data", **dataset)
    data.attrs["units"] = unit
    for number, axis in enumerate(dimensions):
        values = group.create_dataset(f"dim{number}", data=axis.values())
        values.attrs["name"], values.attrs["units"] = axis.name, axis.unit
        values.attrs["scale"], values.attrs["offset"] = axis.scale, axis.offset
    if labels:
        names = group.create_dataset(f"dim{len(dimensions)}", data=np.array([label.encode() for label in labels]))
        names.attrs["name"] = "_labels_"
    return data


def running(name: str) -> Axis:
    """The dimension that counts entries from 0; it grows with the data."""
    return Axis(name, PIXELS, 1.0, 0.0, 2)


def read_axis(group: h5py.Group, number: int, size: int) -> Axis:
    """The axis of one dimension of an array node that `make_array` wrote."""
    attributes = group[f"dim{number}"].attrs
    return Axis(str(attributes["name"]), str(attributes["units"]), float(attributes["scale"]), float(attributes["offset"]),
                size)


def labels(group: h5py.Group) -> tuple[str, ...]:
    """Names of the slices of an EMD stack."""
    return tuple(label.decode() for label in group[f"dim{group['data'].ndim - 1}"][:])


def write_metadata(node: h5py.Group, name: str, values: dict[str, Any]) -> None:
    """Write a flat mapping of texts, numbers and truth values as EMD metadata; what stood under the name is replaced."""
    if "metadatabundle" not in node:
        node.create_group("metadatabundle").attrs["emd_group_type"] = "metadatabundle"
    bundle = node["metadatabundle"]
    if name in bundle:
        del bundle[name]
    group = bundle.create_group(name)
    group.attrs["emd_group_type"], group.attrs["python_class"] = "metadata", "Metadata"
    for key, value in values.items():
        if isinstance(value, str):
            # Fixed length: variable-length texts would cost a 4 KiB heap each. HDF5 has none of length 0, hence max.
            encoded = value.encode()
            item = group.create_dataset(key, data=np.array(encoded, f"S{max(1, len(encoded))}"))
            kind = "string"
        elif isinstance(value, (bool, np.bool_)):
            item, kind = group.create_dataset(key, data=bool(value)), "bool"
        else:
            item, kind = group.create_dataset(key, data=value), "number"
        item.attrs["type"] = kind.encode()


def read_metadata(node: h5py.Group, name: str) -> dict[str, Any]:
    """The mapping that `write_metadata` wrote; empty where there is none."""
    if "metadatabundle" not in node or name not in node["metadatabundle"]:
        return {}
    result = {}
    for key, item in node["metadatabundle"][name].items():
        value = item[()]
        result[key] = value.decode() if isinstance(value, bytes) else value.item()
    return result
