"""Weights of networks in one file of plain arrays, and the hash that says which they are."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.completeness import WeightsWarning, missing

SHIPPED = Path(__file__).parent / "weights" / "nanobeam.npz"


class WeightsError(ValueError):
    """A file of weights that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Attributes
    ----------
    arrays : by name, e.g. "disk/body.0.weight".
    settings : what else is needed to use them, and where they come from.
    hash : SHA-256 (hex) of the file.
    path : of the file.
    """

    arrays: dict[str, np.ndarray]
    settings: dict
    hash: str
    path: Path

    @property
    def caveats(self) -> tuple[str, ...]:
        """Why these weights are not to be trusted, as their training wrote; empty: nothing is known against them."""
        return tuple(map(str, self.settings.get("caveats", ())))

    def part(self, name: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with `name` and a slash, without it."""
        return {key[len(name) + 1:]: value for key, value in self.arrays.items() if key.startswith(name + "/")}


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises
    ------
    WeightsError : it cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror}") from None


def read_weights(path: Path, network: str) -> Weights:
    """Weights of a network by name, e.g. "nanobeam".

    Raises
    ------
    WeightsError : there is no such file, it is none of ours, or of another network.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        settings, arrays = _unpacked(data)
        kind = settings["network"]
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise WeightsError(f"{path} is no file of weights ({error}): make one with 'edgetem train cbed'") from None
    if kind != network:
        raise WeightsError(f"weights {path} are of the network {kind!r}, not of {network!r}")
    broken = [name for name, value in arrays.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if broken:
        raise WeightsError(f"weights {path}: {broken[0]} holds numbers that are not finite: train again")
    if kind == "nanobeam":
        lacking = missing(arrays, settings)
        if lacking:
            raise WeightsError(f"weights {path} {lacking}: they are damaged, or their training was not finished; train again")
    return Weights(arrays, settings, hashlib.sha256(data).hexdigest(), path)


def _unpacked(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """Settings and arrays of a file's bytes; ValueError, with what is wrong, where it is none of ours."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"it is damaged or cut short: {error}") from None
    except ValueError as error:
        raise ValueError("it holds Python objects, which are never loaded" if "Object arrays" in str(error) else
                         "it is no .npz file, or damaged") from None
    if "settings" not in arrays:
        raise ValueError("it has no settings")
    settings = json.loads(str(arrays.pop("settings")))
    if not isinstance(settings, dict) or not isinstance(settings.get("network"), str):
        raise ValueError("its settings do not say of which network it is")
    return settings, arrays


def warn_of(weights: Weights) -> None:
    """Warn (`WeightsWarning`) where weights are not to be trusted."""
    if weights.caveats:
        warnings.warn(f"weights {weights.path} are not for measurements: {'; '.join(weights.caveats)}", WeightsWarning,
                      stacklevel=2)


def write_weights(path: Path, arrays: dict[str, np.ndarray], settings: dict) -> str:
    """Write weights, always the same bytes for the same numbers; their hash.

    Parameters
    ----------
    settings : what JSON can hold; "network" names the network.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    everything = {**arrays, "settings": np.array(json.dumps(settings, sort_keys=True))}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(everything):
            piece = io.BytesIO()
            np.lib.format.write_array(piece, np.asanyarray(everything[name]), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), piece.getvalue(), zipfile.ZIP_DEFLATED)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def module_arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """A module's parameters in half precision: their rounding is below what training leaves undetermined."""
    return {name: value.detach().cpu().numpy().astype(np.float16) for name, value in module.state_dict().items()}


def fill_module(module: torch.nn.Module, arrays: dict[str, np.ndarray], what: str) -> torch.nn.Module:
    """The module with these parameters, for inference.

    Raises
    ------
    WeightsError : names or shapes are not the module's.
    """
    own = module.state_dict()
    if set(own) != set(arrays) or any(tuple(own[name].shape) != arrays[name].shape for name in own):
        raise WeightsError(f"the weights of {what} do not fit its network: they are of another version, train again")
    module.load_state_dict({name: torch.from_numpy(value.astype(np.float32)) for name, value in arrays.items()})
    return module.eval()
