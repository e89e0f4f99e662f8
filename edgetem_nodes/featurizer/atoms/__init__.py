"""Atomic columns in dark-field and reconstructed images: positions, lattice, defects, structures."""

from edgetem_nodes.featurizer.atoms.found import FoundAtoms
from edgetem_nodes.featurizer.atoms.image import ImageError

__all__ = ["FoundAtoms", "ImageError", "find_atoms"]


def __getattr__(name: str) -> object:
    """`find_atoms` brings torch with it, which takes a second: only on demand."""
    if name == "find_atoms":
        from edgetem_nodes.featurizer.atoms.finder import find_atoms
        return find_atoms
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
