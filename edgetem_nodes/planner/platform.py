"""What decisions depend on besides their inputs. Elsewhere a replay is "not comparable", not wrong."""

from __future__ import annotations

import platform

import numpy as np


def decision_platform() -> str:
    """Processor, instruction set, device, threads and libraries that the last bits of a decision follow from."""
    import torch  # seconds to load, and there already where a planner runs

    return (f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, cpu, {torch.get_num_threads()} thread, "
            f"torch {torch.__version__.split('+')[0]}, numpy {np.__version__}")
