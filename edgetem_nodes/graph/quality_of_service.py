"""Quality of service of every topic in the graph, in one place."""

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

BLOCKS = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE,
                    history=HistoryPolicy.KEEP_LAST, depth=64)
"""Science data in blocks of 1-4 MiB: reliable and bounded; credit, not the queue, holds the detector back."""

EVENTS = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE,
                    history=HistoryPolicy.KEEP_LAST, depth=1000)
"""Small science data: probe paths, measurements, decisions, ends of acquisitions."""

STATE = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL,
                   history=HistoryPolicy.KEEP_LAST, depth=1)
"""State and calibration: a node that comes late gets the last value."""

CREDITS = QoSProfile(reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL,
                     history=HistoryPolicy.KEEP_LAST, depth=100)
"""The detector's subscription to credit: all consumers share its queue, so it must hold more than the last message."""

PREVIEW = qos_profile_sensor_data
"""Images for people: best effort."""
