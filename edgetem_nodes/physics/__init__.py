"""Physics of specimen, optics and detection. Knows no node and no ROS."""
