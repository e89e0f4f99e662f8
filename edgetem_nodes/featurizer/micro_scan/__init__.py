"""Atoms, vacancies and dopants of a sheet from a micro-scan: a small square of focused-probe diffraction patterns."""
