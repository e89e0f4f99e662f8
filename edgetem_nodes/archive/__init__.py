"""Readers and writers of data files, ROS-free: what compressor, planner, replay and operator share."""
