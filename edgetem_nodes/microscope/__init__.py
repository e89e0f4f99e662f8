"""The microscope node and its drivers."""
