"""Calibration of a 4D-STEM experiment from its own data: what the patterns and the scan say of detector and scan."""
