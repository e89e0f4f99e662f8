"""Processes: started, read, watched, restarted and ended without an orphan."""

from __future__ import annotations

import asyncio
import codecs
import io
import os
import shlex
import signal
from typing import Any, Callable, Iterable, Mapping, Optional, Union

from .. import logging
from ..child import ChildProcess
from ..conditions import evaluate_condition_expression
from ..context import LaunchContext
from ..entities import Action, LaunchDescriptionEntity, SomeEntitiesType, normalize_to_list_of_entities
from ..event_handlers import EventHandler, OnProcessExit, OnShutdown
from ..events import matches_action
from ..events.process import (ProcessExited, ProcessStarted, ProcessStderr, ProcessStdout, ShutdownProcess,
                              SignalProcess)
from ..substitution import SomeSubstitutionsType, perform_substitutions, perform_typed
from ..substitutions import LaunchConfiguration


class ExecuteProcess(Action):
    """Run a command.

    Parameters
    ----------
    cmd : the command, each part a text, a substitution or a list of them.
    name, prefix, cwd : label of the process, what stands before the command, working directory.
    env, additional_env : the whole environment, or what is added to the launch's.
    shell : give the command to a shell, as one text.
    sigterm_timeout, sigkill_timeout : from SIGINT to SIGTERM, and from there to SIGKILL [s].
    emulate_tty : give the process a terminal, so that it writes line by line and in colour.
    output, output_format : see `launch.logging.OutputSinks`; `{line}` and `{this.process_description.final_name}`.
    cached_output : keep what the process writes for `get_stdout` and `get_stderr`.
    on_exit : actions, or a function of event and context that returns some, when the process ends.
    respawn, respawn_delay, respawn_max_retries : start it again, after seconds, at most so often (-1: always).
    """

    def __init__(self, *, cmd: Iterable[SomeSubstitutionsType], name: Optional[SomeSubstitutionsType] = None,
                 prefix: Optional[SomeSubstitutionsType] = None, cwd: Optional[SomeSubstitutionsType] = None,
                 env: Optional[Mapping] = None, additional_env: Optional[Mapping] = None, shell: bool = False,
                 sigterm_timeout: Union[float, SomeSubstitutionsType] = LaunchConfiguration("sigterm_timeout", default=5),
                 sigkill_timeout: Union[float, SomeSubstitutionsType] = LaunchConfiguration("sigkill_timeout", default=5),
                 emulate_tty: bool = False, output: Union[SomeSubstitutionsType, Mapping] = "log",
                 output_format: str = "[{this.process_description.final_name}] {line}", cached_output: bool = False,
                 log_cmd: bool = False,
                 on_exit: Union[SomeEntitiesType, Callable[[ProcessExited, LaunchContext], Any], None] = None,
                 respawn: Union[bool, SomeSubstitutionsType] = False, respawn_delay: Optional[float] = None,
                 respawn_max_retries: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.cmd = list(cmd)
        self.final_name = ""
        self.process_details: Optional[dict[str, Any]] = None
        self.return_code: Optional[int] = None
        self._name, self._prefix, self._cwd = name, prefix, cwd
        self._env, self._additional_env, self.shell = env, additional_env, shell
        self._timeouts = (sigterm_timeout, sigkill_timeout)
        self._emulate_tty, self._log_cmd, self._cached_output = emulate_tty, log_cmd, cached_output
        self._output = os.environ.get("OVERRIDE_LAUNCH_PROCESS_OUTPUT", output)
        self._output_format = output_format
        self._on_exit = on_exit
        self._respawn, self._respawn_delay, self._retries = respawn, respawn_delay or 0.0, respawn_max_retries
        self._text = {"stdout": io.StringIO(), "stderr": io.StringIO()}
        self._child: Optional[ChildProcess] = None
        self._task: Optional[asyncio.Task] = None
        self._ending = asyncio.Event()
        self._escalation: Optional[asyncio.Task] = None

    @property
    def process_description(self) -> ExecuteProcess:
        """The action itself, which knows `final_name` and `cmd`."""
        return self

    @property
    def name(self) -> str:
        """Label of the process, with its number once it has one."""
        return self.final_name or str(self._name)

    def get_sub_entities(self) -> list[LaunchDescriptionEntity]:
        return [] if callable(self._on_exit) else normalize_to_list_of_entities(self._on_exit)

    def get_asyncio_future(self) -> Optional[asyncio.Future]:
        return self._task

    def get_stdout(self) -> str:
        """What the process has written so far; with `cached_output` only."""
        return self._cached("stdout")

    def get_stderr(self) -> str:
        """What the process has written to its standard error so far; with `cached_output` only."""
        return self._cached("stderr")

    def _cached(self, stream: str) -> str:
        if not self._cached_output:
            raise RuntimeError(f"{self.name}: output is kept only with cached_output=True")
        return self._text[stream].getvalue()

    def execute(self, context: LaunchContext) -> None:
        """Resolve command and environment now, so that the group's scope holds, then start the process.

        Raises
        ------
        RuntimeError : the action was executed before.
        """
        if self._task is not None:
            raise RuntimeError(f"{self.name} was started before; one action starts one process")
        if context.is_shutdown:
            return
        details = self._resolved(context)
        output = self._output if isinstance(self._output, Mapping) else perform_substitutions(context, self._output)
        sinks = logging.OutputSinks(details["name"], output)
        terminal = self._emulate_tty
        if "emulate_tty" in context.launch_configurations:
            terminal = evaluate_condition_expression(context, context.launch_configurations["emulate_tty"])
        timeouts = [perform_typed(context, timeout, float) for timeout in self._timeouts]
        self._respawn = perform_typed(context, self._respawn, bool)
        for handler in (
                EventHandler(matcher=lambda event: isinstance(event, (ShutdownProcess, SignalProcess))
                             and event.process_matcher(self), entities=lambda event, context: self._asked(event, timeouts)),
                OnShutdown(on_shutdown=lambda event, context: self._end(context, timeouts)),
                OnProcessExit(target_action=self, on_exit=self._on_exit)):
            context.register_event_handler(handler)
        self._context = context
        self._task = asyncio.ensure_future(self._run(context, details, sinks, terminal))
        self._task.add_done_callback(lambda _: self._stop_escalation())

    def _resolved(self, context: LaunchContext) -> dict[str, Any]:
        def mapping(pairs: Mapping) -> dict[str, str]:
            return {perform_substitutions(context, key): perform_substitutions(context, value)
                    for key, value in pairs.items()}

        cmd = [perform_substitutions(context, part) for part in self.cmd]
        prefix = LaunchConfiguration("launch-prefix", default="") if self._prefix is None else self._prefix
        cmd = [*shlex.split(perform_substitutions(context, prefix)), *cmd]
        label = os.path.basename(cmd[0]) if self._name is None else perform_substitutions(context, self._name)
        context.process_count += 1
        self.final_name = f"{label}-{context.process_count}"
        environment = dict(context.environment) if self._env is None else mapping(self._env)
        environment.update(mapping(self._additional_env or {}))
        cwd = None if self._cwd is None else perform_substitutions(context, self._cwd)
        self.process_details = {"action": self, "name": self.final_name, "cmd": cmd, "cwd": cwd, "env": environment,
                                "pid": 0}
        return self.process_details

    async def _run(self, context: LaunchContext, details: dict, sinks: logging.OutputSinks, terminal: bool) -> None:
        logger = logging.get_logger(details["name"])
        while True:
            if self._log_cmd:
                logger.info(f"command {shlex.join(details['cmd'])}, working directory {details['cwd'] or os.getcwd()}")
            try:
                self._child = await ChildProcess.start(details["cmd"], details["cwd"], details["env"], self.shell, terminal)
            except OSError as error:
                logger.error(f"{details['cmd'][0]!r} could not be started: {error.strerror}"
                             + ("" if error.filename in (None, details["cmd"][0]) else f" ({error.filename})"))
                return
            details["pid"] = self._child.pid
            logger.info(f"started, pid {self._child.pid}")
            context.emit_event_sync(ProcessStarted(**details))
            self._child.read(self._reader("stdout", ProcessStdout, details, sinks),
                             self._reader("stderr", ProcessStderr, details, sinks))
            code = self.return_code = await self._child.wait()
            self._stop_escalation()
            await self._child.finish()
            if code == 0:
                logger.info(f"ended, pid {self._child.pid}")
            else:
                logger.error(f"process has died [pid {self._child.pid}, exit code {code}]")
            if self._child.left_others:
                logger.warning("ended processes that it had started and left running")
            context.emit_event_sync(ProcessExited(returncode=code, **details))
            if not self._respawn or self._retries == 0:
                break
            self._retries -= 1
            try:
                await asyncio.wait_for(self._ending.wait(), self._respawn_delay)
            except asyncio.TimeoutError:
                pass
            if self._ending.is_set() or context.is_shutdown:
                break

    def _reader(self, stream: str, event_type: type, details: dict, sinks: logging.OutputSinks) -> Callable[[bytes], None]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""

        def received(data: bytes) -> None:
            nonlocal rest
            text = decoder.decode(data, final=not data)
            if data:
                self._context.emit_event_sync(event_type(text=data, **details))
            if self._cached_output:
                self._text[stream].write(text)
            *lines, rest = (rest + text).split("\n")
            if not data and rest:
                lines, rest = [*lines, rest], ""
            for line in lines:
                sinks.write(stream, self._output_format.format(line=line.rstrip("\r"), this=self))

        return received

    def _asked(self, event: Union[ShutdownProcess, SignalProcess], timeouts: list[float]) -> None:
        if isinstance(event, ShutdownProcess):
            self._end(self._context, timeouts)
        elif self._child is not None and self._child.running:
            logging.get_logger(self.final_name).info(f"{event.signal_name} to {self.final_name}")
            self._child.send_signal(event.signal)

    def _end(self, context: LaunchContext, timeouts: list[float]) -> None:
        if self._ending.is_set() or self._task is None or self._task.done():
            return
        self._ending.set()
        self._escalation = asyncio.ensure_future(self._escalate(context, timeouts))

    def _stop_escalation(self) -> None:
        if self._escalation is not None:
            self._escalation.cancel()

    async def _escalate(self, context: LaunchContext, timeouts: list[float]) -> None:
        logger = logging.get_logger(self.final_name)
        sequence = zip((signal.SIGINT, signal.SIGTERM, signal.SIGKILL), [*timeouts, None])
        while self._child is None:
            await asyncio.sleep(0.01)  # the process is being started at this moment
        for number, timeout in sequence:
            context.emit_event_sync(SignalProcess(signal_number=number, process_matcher=matches_action(self)))
            if timeout is None:
                return
            await asyncio.sleep(timeout)
            logger.error(f"process[{self.final_name}] has not ended {timeout:g} s after {number.name}")


ExecuteLocal = ExecuteProcess
