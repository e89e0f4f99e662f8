"""Networks for convergent-beam patterns: what a pattern says about the crystal, with errors, and when it says nothing."""
