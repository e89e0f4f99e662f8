"""`python -m edgetem_nodes NODE... [--ros-args ...]`: run one node, or several composed in this process."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the node listens, an interruption ends it without a traceback

from edgetem_nodes.graph.environment import prepare  # noqa: E402

prepare()

from edgetem_nodes.graph.compose import main  # noqa: E402  (the environment must be ready before rclpy is imported)

if __name__ == "__main__":
    main()
