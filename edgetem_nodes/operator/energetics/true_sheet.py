"""The atoms that a simulated sheet really has: local deformation about every site, and what is missing or foreign."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from edgetem_nodes.physics.settings import Settings
from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import make_specimen

MARGIN = 2e-9
"""[m] beyond the field that is looked at too."""
AROUND = 0.3e-9
"""[m] in the unstrained sheet: atoms whose distances tell the deformation at a site, the twelve nearest of graphene."""
JOINED = 0.26e-9
"""[m] in the unstrained sheet: defects nearer than this, second neighbours of graphene, are one cluster."""
NOTHING = 0


@dataclass(frozen=True)
class TrueSheet:
    """Sites of a sheet in the field and around it.

    Attributes
    ----------
    places : (sites, 2), (y, x) [m], where each site is now. unstrained : (sites, 2) [m], in the perfect lattice.
    host : (sites,) atomic number of the perfect sheet; occupied : of what is there, 0 where nothing is.
    deformation : (sites, 2, 2), F in (x, y) order.
    """

    places: np.ndarray
    unstrained: np.ndarray
    host: np.ndarray
    occupied: np.ndarray
    deformation: np.ndarray

    @classmethod
    def of(cls, settings: Settings, seed: int) -> TrueSheet:
        """The sheet that a simulation is of, before anything was done to it.

        Raises
        ------
        ValueError : the specimen is not a sheet of one grain without a domain or a transition.
        """
        options, extent = settings.options, settings.extent
        if settings.specimen not in ("graphene", "MoS2") or options.grain_size or options.domain_size or options.transition:
            raise ValueError(f"there is no energy map of the true {settings.specimen}: it is computed for a sheet of graphene "
                             "or MoS2 of one grain, structure.domain_nm 0, without a transition")
        whole = replace(options, vacancy_density=0.0, dopant="", dopant_fraction=0.0)
        low, high = np.full(2, -MARGIN), np.asarray(extent) + MARGIN
        found = [make_specimen(settings.specimen, extent, seed, one).atoms(low - MARGIN, high + MARGIN, Condition())
                 for one in (replace(whole, strain=0.0), whole, options)]
        perfect, strained, real = ({int(i): (p[1:], n, p[0]) for i, p, n in zip(a.identity, a.positions, a.atomic_numbers,
                                                                               strict=True)} for a in found)
        sites = [site for site in perfect if site in strained]
        unstrained = np.array([perfect[site][0] for site in sites])
        heights = np.array([perfect[site][2] for site in sites])
        places = np.array([strained[site][0] for site in sites])
        occupied = np.array([real[site][1] if site in real else NOTHING for site in sites])
        host = np.array([perfect[site][1] for site in sites])
        inside = ((places >= low) & (places < high)).all(axis=1)
        layer = heights == heights.min()
        deformation = np.empty((len(sites), 2, 2))
        # one plane tells the deformation of all, which do not shear against each other
        deformation[:] = _local(unstrained, unstrained[layer], places[layer])
        return cls(places[inside], unstrained[inside], host[inside], occupied[inside], deformation[inside])

    @property
    def defective(self) -> np.ndarray:
        """Indices of sites that hold something else than the perfect sheet."""
        return np.flatnonzero(self.host != self.occupied)

    def clusters(self) -> list[np.ndarray]:
        """Sites of each group of neighbouring defects."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        sites = self.defective
        if not len(sites):
            return []
        pairs = cKDTree(self.unstrained[sites]).query_pairs(JOINED, output_type="ndarray")
        graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(sites), len(sites)))
        _, labels = connected_components(graph, directed=False)
        return [sites[labels == label] for label in range(labels.max() + 1)]


def _local(where: np.ndarray, unstrained: np.ndarray, places: np.ndarray) -> np.ndarray:
    """F (n, 2, 2), (x, y), at `where` (n, 2): least squares over the atoms around, distances after against before."""
    tree = cKDTree(unstrained)
    result = np.empty((len(where), 2, 2))
    for number, near in enumerate(tree.query_ball_point(where, AROUND)):
        before = unstrained[near] - unstrained[near].mean(axis=0)
        after = places[near] - places[near].mean(axis=0)
        plane = (after.T @ before) @ np.linalg.inv(before.T @ before)
        result[number] = plane[::-1, ::-1]
    return result
