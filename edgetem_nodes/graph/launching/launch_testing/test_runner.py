"""Runs launch tests: the launch in the main thread, the active tests beside it, the others after it."""

from __future__ import annotations

import inspect
import threading
import unittest
from typing import Any, Sequence

from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessIO, OnProcessStart
from launch.launch_description_sources import LaunchDescriptionSource

from .actions import READY
from .loader import TestRun, bind
from .output import ActiveIoHandler
from .proc_info import ActiveProcInfoHandler


MOMENT = 3.0
"""[s] that active tests have to end after the launch has ended by itself."""


class TestResult(unittest.TextTestResult):
    """Results of the tests of one run; `append` adds another part's."""

    __test__ = False

    def append(self, other: unittest.TestResult) -> None:
        """Add the results of another part."""
        self.testsRun += other.testsRun
        for kind in ("errors", "failures", "skipped", "expectedFailures", "unexpectedSuccesses"):
            getattr(self, kind).extend(getattr(other, kind))


class FailResult(unittest.TestResult):
    """The result of a run whose launch failed: every test of it counts as failed."""

    def __init__(self, *, test_run: TestRun, message: str) -> None:
        super().__init__()
        self.failures = [(test, message) for test in test_run.all_cases()]
        self.message = message

    def wasSuccessful(self) -> bool:  # noqa: N802
        return False


class LaunchTestRunner:
    """Runs every launch of a module with its tests.

    Parameters
    ----------
    test_runs : from `LoadTestsFromPythonModule`.
    launch_file_arguments : `name:=value` texts.
    debug : show what the launch does in detail.
    """

    def __init__(self, test_runs: Sequence[TestRun], launch_file_arguments: Sequence[str] = (),
                 debug: bool = False) -> None:
        self._runs, self._debug = list(test_runs), debug
        self._arguments = [tuple(argument.split(":=", 1)) for argument in launch_file_arguments]

    def validate(self) -> None:
        """Check the signatures.

        Raises
        ------
        TypeError : `generate_test_description` takes other arguments than those that are parametrised.
        """
        for run in self._runs:
            wanted = set(inspect.signature(inspect.unwrap(run._description)).parameters)
            if wanted != set(run.param_args):
                raise TypeError(f"{run.name}: generate_test_description takes {sorted(wanted)}, but "
                                f"{sorted(run.param_args)} are parametrised")

    def run(self) -> dict[TestRun, unittest.TestResult]:
        """Run everything, in the main thread; returns the result of each run."""
        results: dict[TestRun, unittest.TestResult] = {}
        for run in self._runs:
            try:
                results[run] = _Worker(run, self._arguments, self._debug).run()
            except unittest.SkipTest as reason:
                results[run] = unittest.TestResult()
                results[run].skipped = [(test, str(reason)) for test in run.all_cases()]
        return results


class _Worker:
    def __init__(self, run: TestRun, arguments: Sequence[tuple[str, str]], debug: bool) -> None:
        self._run, self._arguments = run, arguments
        self._service = LaunchService(debug=debug)
        self._ready = threading.Event()
        self._result: Any = None
        self._failure = ""

    def run(self) -> unittest.TestResult:
        run = self._run
        description, context = run.describe()
        proc_info, proc_output = ActiveProcInfoHandler(), ActiveIoHandler()
        known = {**context, "proc_info": proc_info, "proc_output": proc_output, "test_args": dict(self._arguments)}
        bind(run.pre_shutdown_tests, {**known, "launch_service": self._service})
        bind(run.post_shutdown_tests, known)
        self._service.context.extend_globals({READY: self._ready.set})
        self._service.include_launch_description(self._watched(description, proc_info, proc_output))
        thread = threading.Thread(target=self._active_tests, name="active launch tests", daemon=True)
        thread.start()
        self._service.run(shutdown_when_idle=not run.markers.get("keep_alive", False))
        if self._ready.is_set():
            # the tests may be at the very event that ended the launch
            thread.join(MOMENT)
        if self._result is None and not self._failure:
            self._failure = "the launch ended before the active tests did: " + "; ".join(
                f"{event.process_name} ended with code {getattr(event, 'returncode', 'unknown')}" for event in proc_info)
        self._ready.set()
        if self._failure:
            return FailResult(test_run=run, message=self._failure)
        thread.join()
        after = unittest.TextTestRunner(verbosity=2, resultclass=TestResult).run(run.post_shutdown_tests)
        self._result.append(after)
        return self._result

    def _watched(self, description: LaunchDescription, proc_info: ActiveProcInfoHandler,
                 proc_output: ActiveIoHandler) -> LaunchDescription:
        def started(event: Any, context: Any) -> None:
            proc_info.append(event)
            proc_output.track(event.process_name)

        return LaunchDescription([
            RegisterEventHandler(OnProcessStart(on_start=started)),
            RegisterEventHandler(OnProcessExit(on_exit=lambda event, context: proc_info.append(event))),
            RegisterEventHandler(OnProcessIO(on_stdout=proc_output.append, on_stderr=proc_output.append)),
            IncludeLaunchDescription(LaunchDescriptionSource(description), launch_arguments=self._arguments)])

    def _active_tests(self) -> None:
        try:
            if not self._ready.wait(self._run.timeout):
                self._failure = f"no ReadyToTest action was reached within {self._run.timeout:g} s"
            elif not self._failure:
                self._result = unittest.TextTestRunner(verbosity=2, resultclass=TestResult).run(
                    self._run.pre_shutdown_tests)
        finally:
            self._service.shutdown()
