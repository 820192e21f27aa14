"""Runs the workspace's tests with pytest, hardened against what a workspace can put in pytest's way."""

import traceback
from pathlib import Path

import pytest

INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
ARGUMENTS = (
    "-q",
    "--noconftest",
    "--import-mode=importlib",
    "--tb=no",
    "--continue-on-collection-errors",
    "--capture=no",
    "-pno:cacheprovider",
    "-pno:junitxml",
    "-pno:faulthandler",
    "-pno:unraisableexception",
    "-pno:threadexception",
    "-pno:doctest",
    "-pno:warnings",
    "-ppytest_asyncio.plugin",
)


class Recorder:
    """Notes how every test ended, and why where it did not pass."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}
        self.errors: dict[str, str] = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome

    def pytest_collectreport(self, report):
        if report.failed:
            self.outcomes[report.nodeid] = "failed"

    def pytest_exception_interact(self, node, call, report):
        error = call.excinfo.value
        if isinstance(error, node.CollectError) and isinstance(error.__cause__, BaseException):
            error = error.__cause__  # pytest wraps what importing a test file raised
        self.errors[report.nodeid] = "".join(traceback.format_exception_only(error))[:400]


def run_suite(workspace: Path, request: dict) -> dict:
    """Test id -> outcome, and test id -> error, of the workspace's tests/test_*.py."""
    recorder = Recorder()
    (workspace / "verifier.ini").write_text(INI)
    arguments = [*ARGUMENTS, "-c", str(workspace / "verifier.ini"), "--rootdir", str(workspace), str(workspace / "tests")]
    pytest.main(arguments, plugins=[recorder])
    return {"outcomes": recorder.outcomes, "errors": recorder.errors}
