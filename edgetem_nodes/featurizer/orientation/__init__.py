"""Crystal orientation mapping: patterns matched with a simulated library, misorientation, grains, pictures.

Vectors of crystal and specimen are (z, y, x), z along the beam; an orientation is the matrix (3, 3) that takes the crystal's
axes to the specimen's. The crystal's axes are the Cartesian ones of its structure (ase.Atoms), in that order too.
"""
