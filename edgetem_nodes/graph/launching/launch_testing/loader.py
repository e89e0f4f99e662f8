"""The test runs of a launch test module: its description, its active tests, its tests after the end."""

from __future__ import annotations

import inspect
import unittest
from types import ModuleType
from typing import Any, Callable, Iterator

from launch import LaunchDescription
from launch.entities import walk

from .actions import ReadyToTest


def post_shutdown_test() -> Callable[[type], type]:
    """Decorate a test case that is run when every process has ended."""
    def decorator(test_case: type) -> type:
        test_case.__post_shutdown_test__ = True
        return test_case

    return decorator


def ready_to_test_action_timeout(timeout: float) -> Callable:
    """Decorate a description that may take `timeout` seconds until its `ReadyToTest`; 15 s by default."""
    def decorator(function: Callable) -> Callable:
        function.__ready_to_test_action_timeout__ = timeout
        return function

    return decorator


class TestRun:
    """One launch with its tests; a parametrised module has several."""

    __test__ = False

    def __init__(self, name: str, description: Callable, param_args: dict[str, Any], module: ModuleType) -> None:
        self.name = name
        self.param_args = param_args
        self.markers: dict[str, bool] = getattr(description, "__markers__", {})
        self.timeout: float = getattr(description, "__ready_to_test_action_timeout__", 15.0)
        self.pre_shutdown_tests = _suite(module, False)
        self.post_shutdown_tests = _suite(module, True)
        self._description = description

    def __str__(self) -> str:
        values = ", ".join(map(str, self.param_args.values()))
        return f"{self.name}[{values}]" if values else self.name

    def describe(self) -> tuple[LaunchDescription, dict[str, Any]]:
        """A fresh launch description and the context that tests may take as arguments.

        Raises
        ------
        ValueError : the description holds no `ReadyToTest`.
        """
        result = self._description()
        description, context = result if isinstance(result, tuple) else (result, {})
        if not any(isinstance(entity, ReadyToTest) for entity, _ in walk(description.entities)):
            raise ValueError(f"{self.name}: generate_test_description() must return a LaunchDescription with a "
                             "ReadyToTest action in it")
        return description, {**context, **self.param_args}

    def all_cases(self) -> Iterator[unittest.TestCase]:
        """Every test of the run."""
        yield from cases(self.pre_shutdown_tests)
        yield from cases(self.post_shutdown_tests)


def LoadTestsFromPythonModule(module: ModuleType, *, name: str = "launch_tests") -> list[TestRun]:  # noqa: N802
    """The test runs of a module; one for each set of values where it is parametrised."""
    function = module.generate_test_description
    runs = function() if hasattr(function, "__parametrized__") else [(function, {})]
    return [TestRun(name, description, values, module) for description, values in runs]


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Every test of a suite, nested or not."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from cases(test)
        else:
            yield test


def bind(suite: unittest.TestSuite, arguments: dict[str, Any]) -> None:
    """Let tests take the arguments by name, in methods, set-up and tear-down of test and class, or as attributes."""
    for test in cases(suite):
        for name in (test._testMethodName, "setUp", "tearDown"):
            setattr(test, name, _bound(getattr(test, name), arguments))
    for test_class in {type(test) for test in cases(suite)}:
        for name, value in arguments.items():
            if not hasattr(test_class, name):
                setattr(test_class, name, value)
        for name in ("setUpClass", "tearDownClass"):
            setattr(test_class, name, _bound(getattr(test_class, name), arguments))


def _bound(function: Callable, arguments: dict[str, Any]) -> Callable:
    known = {name: arguments[name] for name in inspect.signature(function).parameters if name in arguments}

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **known, **kwargs)

    call.__unittest_skip__ = getattr(function, "__unittest_skip__", False)
    call.__unittest_skip_why__ = getattr(function, "__unittest_skip_why__", "")
    call.__unittest_expecting_failure__ = getattr(function, "__unittest_expecting_failure__", False)
    return call


def _suite(module: ModuleType, after_shutdown: bool) -> unittest.TestSuite:
    loader = unittest.TestLoader()
    suite = unittest.TestSuite()
    for test_case in vars(module).values():
        if not (isinstance(test_case, type) and issubclass(test_case, unittest.TestCase)):
            continue
        if getattr(test_case, "__post_shutdown_test__", False) is after_shutdown:
            own = type(test_case.__name__, (test_case,), {"__module__": test_case.__module__})  # one class a run
            suite.addTests(loader.loadTestsFromTestCase(own))
    suite._removeTestAtIndex = lambda index: None  # the results refer to the tests
    return suite
