"""Runs the workspace's tests with pytest, hardened against what a workspace can put in pytest's way.

No conftest, no plugin and no configuration file of the workspace is read. pytest itself is made ready once, in the
fork server: a child only collects and runs.
"""

import traceback
from pathlib import Path

import pytest
from _pytest.config import Config, _prepareconfig

ARGUMENTS = (
    "-qq",
    "-c/dev/null",
    "--noconftest",
    "--import-mode=importlib",
    "--tb=no",
    "--continue-on-collection-errors",
    "--capture=no",
    "-oasyncio_mode=auto",
    "-oasyncio_default_fixture_loop_scope=function",
    "-ppytest_asyncio.plugin",
)
UNUSED_PLUGINS = (
    "cacheprovider",
    "debugging",
    "doctest",
    "faulthandler",
    "junitxml",
    "logging",
    "pastebin",
    "setuponly",
    "setupplan",
    "stepwise",
    "threadexception",
    "unraisableexception",
    "warnings",
)
MAX_ERROR = 400


class Recorder:
    """Notes how every test ended, and, to be explained, why where it did not pass."""

    def __init__(self, explained: bool) -> None:
        self.explained = explained
        self.outcomes: dict[str, str] = {}
        self.errors: dict[str, str] = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome

    def pytest_collectreport(self, report):
        if report.failed:
            self.outcomes[report.nodeid] = "failed"

    def pytest_exception_interact(self, node, call, report):
        if not self.explained:
            return
        error = call.excinfo.value
        if isinstance(error, pytest.Collector.CollectError) and isinstance(error.__cause__, BaseException):
            error = error.__cause__  # pytest wraps what importing a test file raised
        self.errors[report.nodeid] = "".join(traceback.format_exception_only(error))[:MAX_ERROR]


class Suite:
    """A pytest session over `workspace`/tests that has not collected anything yet.

    `explained`: asserts are rewritten, so that an error says what was compared. How a test ends does not depend on that.
    """

    def __init__(self, workspace: Path, *, explained: bool = False) -> None:
        self.workspace, self.recorder = workspace, Recorder(explained)
        options = [f"-pno:{name}" for name in UNUSED_PLUGINS] + [f"--rootdir={workspace}", f"--confcutdir={workspace}"]
        options += [] if explained else ["--assert=plain"]
        self._config: Config = _prepareconfig([*ARGUMENTS, *options], plugins=[self.recorder])
        self._config._do_configure()
        self._session = pytest.Session.from_config(self._config)
        self._config.hook.pytest_sessionstart(session=self._session)

    def run(self) -> dict:
        """Test id -> outcome, and test id -> error, of tests/test_*.py."""
        self._config.args = [str(self.workspace / "tests")]
        try:
            self._config.hook.pytest_collection(session=self._session)
            self._config.hook.pytest_runtestloop(session=self._session)
        except (pytest.Session.Failed, pytest.Session.Interrupted, pytest.UsageError) as error:
            self.recorder.errors["tests"] = str(error)[:MAX_ERROR]
        return {"outcomes": self.recorder.outcomes, "errors": self.recorder.errors}

    def end(self) -> None:
        """Take its hooks away again."""
        self._config._ensure_unconfigure()


def prepared(workspace: Path) -> dict[bool, Suite]:
    """A suite for each answer to: are errors explained?"""
    return {explained: Suite(workspace, explained=explained) for explained in (False, True)}
