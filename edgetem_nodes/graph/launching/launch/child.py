"""One child process of a launch: in a process group of its own, ended with the launcher, read to the end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from contextlib import suppress
from typing import Callable, Mapping, Optional, Sequence

from edgetem_nodes.graph.launching.parent_death import die_with_parent

_DRAIN = 1.0
_POLL = 0.02


class ChildProcess:
    """A process that was started, with its output as streams; make one with `start`."""

    def __init__(self, process: subprocess.Popen, outputs: Sequence[tuple[asyncio.StreamReader, asyncio.ReadTransport]],
                 shell: bool) -> None:
        self.pid = process.pid
        self.left_others = False
        self._pumps: list[asyncio.Task] = []
        self._process = process
        self._streams = [stream for stream, _ in outputs]
        self._transports = [transport for _, transport in outputs]
        self._shell = shell
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()

        def wait() -> None:
            code = process.wait()
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(self._ended.set_result, code)

        threading.Thread(target=wait, name=f"wait for {self.pid}", daemon=True).start()

    @classmethod
    async def start(cls, cmd: Sequence[str], cwd: Optional[str], env: Mapping[str, str], shell: bool,
                    terminal: bool) -> ChildProcess:
        """Start the command, with two terminals for its output if asked for.

        Raises
        ------
        OSError : the program or the directory does not exist or may not be used.
        """
        pairs = [os.openpty() if terminal else os.pipe() for _ in range(2)]
        try:
            process = subprocess.Popen(" ".join(cmd) if shell else list(cmd), shell=shell, cwd=cwd, env=dict(env),
                                       stdin=subprocess.DEVNULL, stdout=pairs[0][1], stderr=pairs[1][1],
                                       process_group=0, preexec_fn=die_with_parent)
        except BaseException:
            for reading, _ in pairs:
                os.close(reading)
            raise
        finally:
            for _, writing in pairs:
                os.close(writing)
        return cls(process, [await _reader(reading) for reading, _ in pairs], shell)

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return not self._ended.done()

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process; its whole group where the process is a shell, or where nothing else helps (SIGKILL)."""
        if self._shell or number == signal.SIGKILL:
            self._signal_group(number)
        elif self.running:
            self._process.send_signal(number)

    def _signal_group(self, number: int) -> bool:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def read(self, *receivers: Callable[[bytes], None]) -> None:
        """Begin to hand standard output and standard error to a receiver each; an empty text is the end."""
        self._pumps = [asyncio.ensure_future(_pump(stream, receiver))
                       for stream, receiver in zip(self._streams, receivers)]

    async def wait(self) -> int:
        """The exit code, when the process has ended; the negative number of the signal that killed it."""
        return await asyncio.shield(self._ended)

    async def finish(self) -> None:
        """Read what is left of the output, and end what the process has left in its group: SIGTERM, then SIGKILL."""
        self.left_others = self._signal_group(signal.SIGTERM)
        _, unfinished = await asyncio.wait(self._pumps, timeout=_DRAIN)
        for _ in range(round(_DRAIN / _POLL) if self.left_others else 0):
            if not self._signal_group(0):
                break
            await asyncio.sleep(_POLL)
        self._signal_group(signal.SIGKILL)
        for pump in unfinished:
            pump.cancel()
        await asyncio.wait(self._pumps)
        for transport in self._transports:
            transport.close()


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader),
                                                                      os.fdopen(descriptor, "rb", 0))
    return reader, transport


async def _pump(stream: asyncio.StreamReader, receiver: Callable[[bytes], None]) -> None:
    try:
        while data := await stream.read(1 << 16):
            receiver(data)
    except OSError:
        pass  # a terminal reports its end as an input/output error
    finally:
        receiver(b"")
