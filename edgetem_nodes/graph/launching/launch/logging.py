"""Screen and log files of a launch."""

from __future__ import annotations

import logging
import os
import socket
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Mapping, Optional

_ALIASES = {
    "screen": {"stdout": {"screen"}, "stderr": {"screen"}},
    "log": {"stdout": {"log"}, "stderr": {"log", "screen"}},
    "both": {"stdout": {"log", "screen"}, "stderr": {"log", "screen"}},
    "own_log": {"stdout": {"own_log"}, "stderr": {"own_log"}},
    "full": {"stdout": {"log", "screen", "own_log"}, "stderr": {"log", "screen", "own_log"}},
}
_DESTINATIONS = {"screen", "log", "own_log"}
_PREFIX = "edgetem.launching."


class LaunchConfig:
    """Level, directory and open files of the launch's logs."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self._directory: Optional[Path] = None
        self._files: dict[Path, Any] = {}

    @property
    def log_dir(self) -> Path:
        """This launch's directory under `ROS_LOG_DIR`, `ROS_HOME/log` or `~/.ros/log`, made when first wanted."""
        if self._directory is None:
            home = os.environ.get("ROS_HOME") or Path.home() / ".ros"
            base = Path(os.environ.get("ROS_LOG_DIR") or Path(home) / "log").expanduser()
            now = datetime.now().strftime("%Y-%m-%d-%H-%M-%S-%f")
            self._directory = base / f"{now}-{socket.gethostname()}-{os.getpid()}"
            self._directory.mkdir(parents=True)
        return self._directory

    @log_dir.setter
    def log_dir(self, directory: str | os.PathLike | None) -> None:
        self._directory = None if directory is None else Path(directory)

    def write(self, file_name: str, line: str) -> None:
        """Append a line to a file of the log directory; where it cannot be written, say so once and go on."""
        path = Path(file_name)
        try:
            path = self.log_dir / file_name
            if path not in self._files:
                self._files[path] = path.open("a", encoding="utf-8", buffering=1)
            self._files[path].write(line + "\n")
        except OSError as error:
            if None not in self._files.values():
                print(f"[WARNING] [launch]: no log file: {error}", file=sys.stderr, flush=True)
            self._files[path] = _Nowhere()

    def close(self) -> None:
        """Close the files; the next launch of this process gets a directory of its own."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._directory = None


class _Nowhere:
    def write(self, line: str) -> None:
        """Drop the line."""

    def close(self) -> None:
        """Nothing is open."""


launch_config = LaunchConfig()


def to_screen(line: str) -> None:
    """Write a line to the standard output at once."""
    try:
        print(line, flush=True)
    except UnicodeEncodeError:
        print(line.encode("ascii", "backslashreplace").decode(), flush=True)
    except (BrokenPipeError, ValueError):
        pass  # the reader of a pipe has gone; the processes must still be ended


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        name = record.name.removeprefix(_PREFIX)
        line = f"[{record.levelname}] [{name}]: {record.getMessage()}"
        launch_config.write("launch.log", f"{record.created:.7f} {line}")
        if record.levelno >= launch_config.level:
            to_screen(line)


def get_logger(name: str = "launch") -> logging.Logger:
    """A logger that writes `[LEVEL] [name]: message` to the screen and to launch.log."""
    logger = logging.getLogger(_PREFIX + name)
    if not logger.handlers:
        logger.addHandler(_Handler())
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    return logger


class OutputSinks:
    """Where the lines of one process go.

    Parameters
    ----------
    name : the process, with its number.
    output : `screen`, `log` (standard error also to the screen), `both`, `own_log`, `full`, or a mapping of `stdout`,
        `stderr` and `both` to `screen`, `log`, `own_log` or sets of them.

    Raises
    ------
    ValueError : the output is none of these.
    """

    def __init__(self, name: str, output: str | Mapping[str, Any]) -> None:
        self._name = name
        self._destinations = self._normalized(output)

    @staticmethod
    def _normalized(output: str | Mapping[str, Any]) -> dict[str, set[str]]:
        if isinstance(output, str):
            if output not in _ALIASES:
                raise ValueError(f"output {output!r} is not one of {', '.join(_ALIASES)}")
            return _ALIASES[output]
        result: dict[str, set[str]] = {"stdout": set(), "stderr": set()}
        for stream, names in output.items():
            names = {names} if isinstance(names, str) else set(names)
            if stream not in ("stdout", "stderr", "both") or not names <= _DESTINATIONS:
                raise ValueError(f"output {stream!r}: {sorted(names)} must be stdout, stderr or both with "
                                 f"destinations among {', '.join(sorted(_DESTINATIONS))}")
            for key in ("stdout", "stderr") if stream == "both" else (stream,):
                result[key] |= names
        return result

    def write(self, stream: str, line: str) -> None:
        """Write a formatted line of `stdout` or `stderr` to where it belongs."""
        destinations = self._destinations[stream]
        if "screen" in destinations:
            to_screen(line)
        if "log" in destinations:
            launch_config.write("launch.log", f"{datetime.now().timestamp():.7f} {line}")
        if "own_log" in destinations:
            launch_config.write(f"{self._name}-{stream}.log", line)
            launch_config.write(f"{self._name}.log", line)
