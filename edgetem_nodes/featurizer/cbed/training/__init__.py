"""Training of the networks that read diffraction patterns: settings, runs, and what is written beside the weights."""
