"""edgetem: an autonomous scanning transmission electron microscope as a ROS 2 node graph."""

__version__ = "0.1.0"
