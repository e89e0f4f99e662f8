"""Identifiers that follow from others, so that every node, a restart and a replay have the same. Imports no ROS."""

from __future__ import annotations

import uuid


def micro_scan_id(acquisition_id: uuid.UUID) -> uuid.UUID:
    """Of the micro-scan at the sites of an acquisition."""
    return uuid.uuid5(acquisition_id, "micro_scan")
