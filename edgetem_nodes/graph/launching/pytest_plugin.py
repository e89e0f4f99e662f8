"""pytest plugin: collects `test_*.launch.py` and runs each as a launch test, with either implementation of launch.

Load it with `pytest_plugins = ["edgetem_nodes.graph.launching.pytest_plugin"]` in the top conftest, or with
`-p edgetem_nodes.graph.launching.pytest_plugin` in `addopts`. The genuine plugin of launch_testing does not collect
these names (pytest takes `test_x.launch` for a module in a package), so this one does so in both cases.
"""

from __future__ import annotations

import importlib.util
import unittest
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, Iterator

import pytest

from . import provide

SUFFIX = ".launch.py"


class LaunchTestFailure(Exception):
    """Tests of a launch that failed; the message holds their tracebacks."""


class LaunchTestFile(pytest.File):
    """A launch test module; one item for each launch of it."""

    def collect(self) -> Iterator[LaunchTestItem]:
        provide()
        from launch_testing.loader import LoadTestsFromPythonModule

        loader = SourceFileLoader(self.path.name.removesuffix(SUFFIX) + "_launch", str(self.path))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(module)
        if not hasattr(module, "generate_test_description"):
            raise self.CollectError(f"{self.path} has no function generate_test_description()")
        marks = getattr(module.generate_test_description, "pytestmark", [])
        for run in LoadTestsFromPythonModule(module, name=self.path.name.removesuffix(SUFFIX)):
            item = LaunchTestItem.from_parent(self, name=str(run), test_run=run)
            for mark in marks:
                item.add_marker(getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs))
            yield item


class LaunchTestItem(pytest.Item):
    """One launch with its active tests and its tests after the end."""

    def __init__(self, *, test_run: Any, **options: Any) -> None:
        super().__init__(**options)
        self._test_run = test_run

    def runtest(self) -> None:
        from launch_testing.test_runner import LaunchTestRunner

        runner = LaunchTestRunner([self._test_run], launch_file_arguments=[])
        runner.validate()
        result = runner.run().get(self._test_run)
        if result is None or not result.wasSuccessful():
            raise LaunchTestFailure(_report(result))
        skipped = list(result.skipped or ())
        if skipped and len(skipped) >= len(list(self._test_run.all_cases())):
            pytest.skip(skipped[0][1])

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        if isinstance(excinfo.value, LaunchTestFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"launch test: {self.name}"


def _report(result: unittest.TestResult | None) -> str:
    if result is None:
        return "the launch test gave no result"
    failures = [*(result.errors or ()), *(result.failures or ())]
    sections = [f"{test.id() if hasattr(test, 'id') else test}\n{text}" for test, text in failures]
    sections += [f"{test.id()}\nsucceeded, but was expected to fail" for test in result.unexpectedSuccesses or ()]
    return "\n".join(sections) or str(getattr(result, "message", "the launch test failed"))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> LaunchTestFile | None:
    """Take `*.launch.py` before pytest or the genuine plugin imports it as an ordinary module."""
    if module_path.name.endswith(SUFFIX):
        return LaunchTestFile.from_parent(parent, path=module_path)
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark that launch_testing's own tests carry."""
    config.addinivalue_line("markers", "launch_test: a function that describes a launch test")
