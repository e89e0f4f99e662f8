"""Phase images from the interference inside the bright-field disk: single side band ptychography and parallax."""
