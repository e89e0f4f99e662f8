"""The detector node and its sources."""
