"""What the nodes share on the ROS side: environment, configuration, quality of service, messages, node base, launch."""
