"""`python -m edgetem_nodes NODE... [--ros-args ...]`: run one node, or several composed in this process."""

from edgetem_nodes.graph.environment import prepare

prepare()

from edgetem_nodes.graph.compose import main  # noqa: E402  (the environment must be ready before rclpy is imported)

if __name__ == "__main__":
    main()
