"""Micro-scans to atoms: an ensemble of networks, the lattice they agree on, and what stands on each of its sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.weights import Weights, WeightsError, fill_module, module_arrays, read_weights, write_weights
from edgetem_nodes.featurizer.micro_scan.amplitudes import InContext, in_context, phase_precision
from edgetem_nodes.featurizer.micro_scan.columns import Calibration, Columns, judge
from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL, MicroScan
from edgetem_nodes.featurizer.micro_scan.descriptors import MicroScanDescriptors
from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES, HOSTS, Host, log_prior
from edgetem_nodes.featurizer.micro_scan.images import Images, Imaging, site_features_of
from edgetem_nodes.featurizer.micro_scan.model import SiteNetwork, read
from edgetem_nodes.featurizer.micro_scan.registry import RegistryFinder
from edgetem_nodes.featurizer.micro_scan.sheets import Sheets, alike, column_amplitudes
from edgetem_nodes.featurizer.micro_scan.species import SpeciesNetwork, posterior

NETWORK = "micro_scan"
WEIGHTS = Path(__file__).parent / "weights" / "micro_scan.npz"
_VIEW = 0.7e-10
"""How far beyond the outermost probes [m] the map of sites is trusted for the lattice."""
FEWEST_ELECTRONS = 1500.0
"""In a pattern; half of the fewest in training."""
MOST_POINTS = 12


class MicroScanNetwork:
    """An ensemble with its calibration."""

    def __init__(self, sites: Sequence[SiteNetwork], species: Sequence[SpeciesNetwork], calibration: Calibration,
                 digest: str = "") -> None:
        self.site_networks, self.species_networks = [one.eval() for one in sites], [one.eval() for one in species]
        self.calibration = calibration
        self.digest = digest
        """SHA-256 (hex) of the weights' file; empty: never saved."""
        self.held: Weights | None = None
        """The file's content; None: never saved."""
        self._imagings: dict[MicroScan, Imaging] = {}
        self._finders: dict[tuple[int, float], RegistryFinder] = {}

    @classmethod
    def shipped(cls) -> MicroScanNetwork:
        """The network that comes with the package; raises FileNotFoundError where its weights are missing."""
        return cls.load(WEIGHTS)

    @classmethod
    def load(cls, path: Path) -> MicroScanNetwork:
        """Weights from a file that `edgetem train cbed` or `save` wrote.

        Raises
        ------
        WeightsError : there is none, or it does not hold such a network.
        """
        held = read_weights(path, NETWORK)
        network = cls.of(held.arrays, held.settings, held.hash)
        network.held = held
        return network

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray], settings: dict, digest: str = "") -> MicroScanNetwork:
        """From arrays and settings as `described` has them.

        Raises
        ------
        WeightsError : they are not of such a network.
        """
        try:
            if settings["classes"] != [name for name, _ in CLASSES]:
                raise ValueError(f"its classes are {settings['classes']}")
            known = {name: tuple(value) if isinstance(value, list) else value
                     for name, value in settings["calibration"].items()}
            calibration = Calibration(**{**known, "sheets": Sheets(**known["sheets"])})
            networks = {"site": [], "species": []}
            for kind, make in (("site", SiteNetwork), ("species", SpeciesNetwork)):
                for number in range(settings["members"]):
                    own = {name.split("/", 2)[2]: value for name, value in arrays.items()
                           if name.startswith(f"{kind}/{number}/")}
                    networks[kind].append(fill_module(make(settings[f"{kind}_width"]), own, f"{kind} network {number}"))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"no weights of this micro-scan network: {error}") from None
        return cls(networks["site"], networks["species"], calibration, digest)

    def described(self) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays in half precision, and settings, of a file of weights."""
        arrays = {f"{kind}/{number}/{name}": value
                  for kind, networks in (("site", self.site_networks), ("species", self.species_networks))
                  for number, one in enumerate(networks) for name, value in module_arrays(one).items()}
        return arrays, {"network": NETWORK, "classes": [name for name, _ in CLASSES], "members": len(self.site_networks),
                        "site_width": self.site_networks[0].width, "species_width": self.species_networks[0].width,
                        "calibration": asdict(self.calibration)}

    def save(self, path: Path) -> str:
        """Write weights; SHA-256 (hex) of the file."""
        return write_weights(Path(path), *self.described())

    def __call__(self, signals: np.ndarray, electrons: np.ndarray, scan: MicroScan,
                 hosts: Sequence[Host] = HOSTS) -> MicroScanDescriptors:
        """Atoms of reduced micro-scans. A row depends on itself alone.

        Parameters
        ----------
        signals : (rows, channels, n, n), of `reduction.Reduction`.
        electrons : (rows,) in a pattern.
        scan : beam and scan; its electrons do not matter.
        hosts : sheets that may be there; where they are not all, those named have prior odds of `columns.STATED_ODDS`.

        Raises
        ------
        ValueError : more points than `MOST_POINTS` along an axis; no host.
        """
        if not hosts:
            raise ValueError("no sheet is named that may be there: leave hosts out where it may be any")
        if scan.points > MOST_POINTS:
            raise ValueError(f"a micro-scan of {scan.points} x {scan.points} patterns is larger than the {MOST_POINTS} x "
                             f"{MOST_POINTS} that fit the memory: use fewer")
        result = MicroScanDescriptors.empty(len(signals))
        for row in range(len(signals)):
            if not np.isfinite(signals[row]).all():
                result.failures[row] = "the micro-scan holds values that are not finite numbers"
            elif (empty := int((signals[row].sum(axis=0) <= 0).sum())):
                result.failures[row] = (f"{empty} of {scan.points ** 2} patterns are empty: the scan was cut short or the beam "
                                        "is off")
            elif not electrons[row] >= FEWEST_ELECTRONS:
                result.failures[row] = (f"{electrons[row]:.3g} electrons in a pattern are fewer than {FEWEST_ELECTRONS:g}: "
                                        "no atom can be told")
            else:
                columns = self.columns(signals[row:row + 1], electrons[row:row + 1], scan)
                result.failures[row] = judge(columns, scan, self.calibration, hosts).write(result, row)
        return result

    def columns(self, signals: np.ndarray, electrons: np.ndarray, scan: MicroScan) -> Columns:
        """Lattice and columns of one micro-scan, unjudged; arguments as above with one row."""
        images = self._imaging(scan)(signals, electrons)
        return self.read(images, np.ascontiguousarray(signals[0], np.float32), scan, float(electrons[0]))

    def read(self, images: Images, signals: np.ndarray, scan: MicroScan, electrons: float) -> Columns:
        """Lattice and columns on the images of one micro-scan with these signals (channels, n, n)."""
        with torch.no_grad():
            outputs = [one(torch.from_numpy(images.planes)) for one in self.site_networks]
        there = torch.stack([torch.sigmoid(one[0, 0]) for one in outputs]).mean(dim=0).numpy()
        half = scan.span / 2 + _VIEW
        key = there.shape[-1], half
        if key not in self._finders:
            self._finders[key] = RegistryFinder(*key)
        lattice = self._finders[key](there, lambda points: self._places(outputs, points))
        reach = there.shape[-1] * PIXEL / 2
        sites, sublattice = (np.zeros((0, 2)), np.zeros(0, int)) if lattice is None else lattice.sites(reach)
        features = site_features_of(images, 0, torch.from_numpy(signals), electrons, scan, sites, sublattice)
        context = in_context(features)
        # where a site has no features its sublattice is the lattice's own, in the order of the first that has some
        known = np.flatnonzero((features != 0).any(axis=1))
        if len(known):
            context = replace(context, side=sublattice ^ sublattice[known[0]])
        return Columns(lattice, sites, context, lambda perfect: self._classes(context, perfect, scan),
                       *self._places(outputs, sites), phase_precision(features), images, electrons)

    def _imaging(self, scan: MicroScan) -> Imaging:
        key = replace(scan, electrons=1.0)
        if key not in self._imagings:
            if len(self._imagings) >= 2:
                self._imagings.clear()
            self._imagings[key] = Imaging(key)
        return self._imagings[key]

    def _places(self, outputs: list[torch.Tensor], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets (n, 2) and covariances (n, 2, 2) [m, m^2] of the ensemble's mixture at points (n, 2)."""
        where = torch.from_numpy(np.asarray(points, np.float32))[None]
        read_out = [read(one, where) for one in outputs]
        offsets = torch.stack([one.offset[0].double() for one in read_out])
        factors = torch.stack([one.factor[0].double() for one in read_out])
        mean = offsets.mean(dim=0)
        apart = offsets - mean
        covariance = (factors @ factors.mT * self.calibration.spread + apart[..., :, None] * apart[..., None, :]).mean(dim=0)
        return mean.numpy(), covariance.numpy()

    def _classes(self, context: InContext, perfect: np.ndarray, scan: MicroScan) -> np.ndarray:
        """Class probabilities (n, K) of the ensemble's mixture, given the classes (n,) of the perfect sheet."""
        prior = log_prior(perfect)
        result = posterior(self.species_networks, context.sites, perfect, column_amplitudes(alike(scan)), prior,
                           self.calibration.temperature)
        unseen = (context.sites == 0).all(axis=1)
        result[unseen] = np.exp(prior[unseen])
        return result
