"""Marks of test descriptions and tests."""

from __future__ import annotations

import functools
import time
from typing import Callable, Optional


def keep_alive(test_description: Callable) -> Callable:
    """Let the launch go on when every process has ended, until the active tests are done."""
    test_description.__markers__ = {**getattr(test_description, "__markers__", {}), "keep_alive": True}
    return test_description


def retry_on_failure(*, times: int, delay: Optional[float] = None) -> Callable:
    """Run a test up to `times` times until no assertion fails, with a pause in seconds."""
    if times < 1:
        raise ValueError(f"retry_on_failure: times is {times}, it must be at least 1")

    def decorator(test: Callable) -> Callable:
        @functools.wraps(test)
        def wrapper(*args: object, **kwargs: object) -> object:
            for _ in range(times - 1):
                try:
                    return test(*args, **kwargs)
                except AssertionError:
                    time.sleep(delay or 0.0)
            return test(*args, **kwargs)

        return wrapper

    return decorator
