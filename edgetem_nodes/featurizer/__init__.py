"""The featurizer node: scalars and descriptors from detector data."""
