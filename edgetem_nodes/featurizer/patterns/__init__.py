"""Diffraction patterns, as frames or as electron events: one pass of reductions, and what images are made of them."""
