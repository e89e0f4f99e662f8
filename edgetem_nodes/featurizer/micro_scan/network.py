"""Micro-scans to atoms: an ensemble of networks, the lattice they agree on, and what stands on each of its sites."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.columns import Columns, Judgement, judge
from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL, MicroScan
from edgetem_nodes.featurizer.micro_scan.descriptors import MicroScanDescriptors
from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES
from edgetem_nodes.featurizer.micro_scan.images import Images, Imaging
from edgetem_nodes.featurizer.micro_scan.model import SiteNetwork, read
from edgetem_nodes.featurizer.micro_scan.registry import Lattice, RegistryFinder

WEIGHTS = Path(__file__).parent / "weights" / "micro_scan.npz"
_VIEW = 0.7e-10
"""How far beyond the outermost probes [m] the map of sites is trusted for the lattice."""
FEWEST_ELECTRONS = 1500.0
"""In a pattern; half of the fewest in training."""
MOST_POINTS = 12


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities and intervals hold on a validation set, and what the training set looks like.

    Attributes
    ----------
    temperature : logits of classes are divided by it; spread : factor of position covariances.
    typical, deviation : (features,) mean and standard deviation of `columns.Judgement.features` for sheets of the set.
    limit : rejection of all but a hundredth of them.
    """

    temperature: float = 1.0
    spread: float = 1.0
    typical: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    limit: float = 3.0


class MicroScanNetwork:
    """An ensemble with its calibration."""

    def __init__(self, members: Sequence[SiteNetwork], calibration: Calibration, digest: str = "") -> None:
        self.members, self.calibration = [member.eval() for member in members], calibration
        self.digest = digest
        """SHA-256 (hex) of the weights' file; empty: never saved."""
        self._imagings: dict[MicroScan, Imaging] = {}
        self._finders: dict[tuple[int, float], RegistryFinder] = {}

    @classmethod
    def shipped(cls) -> MicroScanNetwork:
        """The network that comes with the package; raises FileNotFoundError where its weights are missing."""
        return cls.load(WEIGHTS)

    @classmethod
    def load(cls, path: Path) -> MicroScanNetwork:
        """Weights from a file that `save` wrote.

        Raises
        ------
        FileNotFoundError : there is none. ValueError : it does not hold such a network.
        """
        content = Path(path).read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as held:
                described = json.loads(bytes(held["description"]).decode())
                if described["classes"] != [name for name, _ in CLASSES]:
                    raise ValueError(f"its classes are {described['classes']}")
                members = []
                for number in range(described["members"]):
                    member = SiteNetwork(described["width"])
                    member.load_state_dict({name: torch.from_numpy(held[f"{number}.{name}"].astype(np.float32))
                                            for name in member.state_dict()})
                    members.append(member)
        except (KeyError, ValueError, OSError, RuntimeError) as error:
            raise ValueError(f"{path} holds no weights of a micro-scan network: {error}") from None
        calibration = Calibration(**{name: tuple(value) if isinstance(value, list) else value
                                     for name, value in described["calibration"].items()})
        return cls(members, calibration, hashlib.sha256(content).hexdigest())

    def save(self, path: Path) -> None:
        """Write weights as half-precision arrays."""
        arrays = {f"{number}.{name}": value.detach().numpy().astype(np.float16) for number, member in enumerate(self.members)
                  for name, value in member.state_dict().items()}
        described = {"classes": [name for name, _ in CLASSES], "members": len(self.members), "width": self.members[0].width,
                     "calibration": vars(self.calibration)}
        arrays["description"] = np.frombuffer(json.dumps(described, sort_keys=True).encode(), np.uint8)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)

    def __call__(self, signals: np.ndarray, electrons: np.ndarray, scan: MicroScan) -> MicroScanDescriptors:
        """Atoms of reduced micro-scans. A row depends on itself alone.

        Parameters
        ----------
        signals : (rows, channels, n, n), of `reduction.Reduction`.
        electrons : (rows,) in a pattern.
        scan : beam and scan; its electrons do not matter.

        Raises
        ------
        ValueError : more points than `MOST_POINTS` along an axis.
        """
        if scan.points > MOST_POINTS:
            raise ValueError(f"a micro-scan of {scan.points} x {scan.points} patterns is larger than the {MOST_POINTS} x "
                             f"{MOST_POINTS} that fit the memory: use fewer")
        result = MicroScanDescriptors.empty(len(signals))
        for row in range(len(signals)):
            if not np.isfinite(signals[row]).all():
                result.failures[row] = "the micro-scan holds values that are not finite numbers"
            elif not electrons[row] >= FEWEST_ELECTRONS:
                result.failures[row] = (f"{electrons[row]:.3g} electrons in a pattern are fewer than {FEWEST_ELECTRONS:g}: "
                                        "no atom can be told")
            else:
                columns = self.columns(signals[row:row + 1], electrons[row:row + 1], scan)
                result.failures[row] = judge(columns, scan, self.calibration.typical, self.calibration.deviation,
                                             self.calibration.limit).write(result, row)
        return result

    def columns(self, signals: np.ndarray, electrons: np.ndarray, scan: MicroScan) -> Columns:
        """Lattice and columns of one micro-scan, unjudged; arguments as above with one row."""
        images = self._imaging(scan)(signals, electrons)
        return self.read(images, scan, float(electrons[0]))

    def read(self, images: Images, scan: MicroScan, electrons: float) -> Columns:
        """Lattice and columns on the images of one micro-scan."""
        with torch.no_grad():
            outputs = [member(torch.from_numpy(images.planes)) for member in self.members]
        there = torch.stack([torch.sigmoid(one[0, 0]) for one in outputs]).mean(dim=0).numpy()
        half = scan.span / 2 + _VIEW
        key = there.shape[-1], half
        if key not in self._finders:
            self._finders[key] = RegistryFinder(*key)
        lattice = self._finders[key](there, lambda points: self._sites(outputs, points)[1:])
        reach = there.shape[-1] * PIXEL / 2
        sites, sublattice = (np.zeros((0, 2)), np.zeros(0, int)) if lattice is None else lattice.sites(reach)
        probabilities, offsets, covariances = self._sites(outputs, sites)
        return Columns(lattice, sites, sublattice, probabilities, offsets, covariances, images, electrons)

    def _imaging(self, scan: MicroScan) -> Imaging:
        key = replace(scan, electrons=1.0)
        if key not in self._imagings:
            if len(self._imagings) >= 2:
                self._imagings.clear()
            self._imagings[key] = Imaging(key)
        return self._imagings[key]

    def _sites(self, outputs: list[torch.Tensor], points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class probabilities (n, K), offsets (n, 2) and covariances (n, 2, 2) [m, m^2] of the ensemble's mixture at points."""
        where = torch.from_numpy(np.asarray(points, np.float32))[None]
        read_out = [read(one, where) for one in outputs]
        classes = torch.stack([torch.softmax(one.classes[0].double() / self.calibration.temperature, dim=-1)
                               for one in read_out])
        offsets = torch.stack([one.offset[0].double() for one in read_out])
        factors = torch.stack([one.factor[0].double() for one in read_out])
        mean = offsets.mean(dim=0)
        apart = offsets - mean
        covariance = (factors @ factors.mT * self.calibration.spread + apart[..., :, None] * apart[..., None, :]).mean(dim=0)
        return classes.mean(dim=0).numpy(), mean.numpy(), covariance.numpy()
