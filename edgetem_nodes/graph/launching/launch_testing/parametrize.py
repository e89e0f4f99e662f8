"""One launch test with several sets of values."""

from __future__ import annotations

import functools
from typing import Any, Callable, Iterable, Iterator


def parametrize(argnames: str, argvalues: Iterable[Any]) -> Callable:
    """Run the launch once for each value, or tuple of values, of the comma-separated names."""
    names = [name.strip() for name in argnames.split(",") if name.strip()]
    rows = [value if isinstance(value, tuple) else (value,) for value in argvalues]
    for row in rows:
        if len(row) != len(names):
            raise ValueError(f"parametrize: {row!r} has {len(row)} values for {len(names)} names ({argnames})")

    def decorator(function: Callable) -> Callable:
        @functools.wraps(function)
        def runs() -> Iterator[tuple[Callable, dict[str, Any]]]:
            for row in rows:
                values = dict(zip(names, row))
                yield functools.update_wrapper(functools.partial(function, **values), function), values

        runs.__parametrized__ = True
        return runs

    return decorator
