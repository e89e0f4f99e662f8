"""The HPC bridge node: structures to energies on a cluster."""
