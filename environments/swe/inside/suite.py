"""Runs hidden tests in a process, and a sandbox, where nothing that the policy wrote is ever loaded.

The modules that the tests import are stand-ins: a call of one of their functions is a question, written to standard
output as a line of JSON and answered on standard input. The last line is {"verdict": {test: passed}}. Arguments: the
folder of the tests, and the names of the modules to stand in for.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import json
import sys
import unittest
from types import ModuleType

from environments.swe.inside.plain import decode, encode


class RemoteError(Exception):
    """An exception of a kind that is not built in."""


def tell(line: dict) -> None:
    """Say a line to the host. What tests print goes to standard error."""
    print(json.dumps(line), file=sys.__stdout__, flush=True)


def ask(question: dict):
    """The value that the repository answers, or its exception."""
    tell({"ask": question})
    line = sys.stdin.readline()
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("not an answer")
        if found.get("callable") is True:
            return lambda *args, **kwargs: ask({**question, "args": encode(args), "kwargs": encode(kwargs)})
        if "value" in found:
            return decode(found["value"])
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise RemoteError(f"an answer that is none: {line[:100]!r}") from error
    if found.get("missing") is True:
        raise AttributeError(f"{question['module']} has no {question['name']!r}")
    kind = getattr(builtins, str(found.get("error")), None)
    message = str(found.get("message"))
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
        raise kind(message)
    raise RemoteError(f"{found.get('error')}: {message}")


class StandIn(ModuleType):
    """A module of the repository, as its hidden tests see it."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return ask({"module": self.__name__, "name": name})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for some modules and what is below them."""

    def __init__(self, modules) -> None:
        self._modules = frozenset(modules)

    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] not in self._modules:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module) -> None:
        """Nothing of it is run here."""


class Verdicts(unittest.TestResult):
    """Which tests passed."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: dict[str, bool] = {}

    def stopTest(self, test) -> None:  # noqa: N802
        super().stopTest(test)
        bad = {one.id() for one, _ in (*self.failures, *self.errors, *self.skipped, *self.expectedFailures)}
        self.passed[test.id()] = not any(one == test.id() or one.startswith(f"{test.id()} ") for one in bad)


def main() -> None:
    """Run the tests and tell what became of them."""
    folder, *modules = sys.argv[1:]
    sys.meta_path.insert(0, Finder(modules))
    sys.dont_write_bytecode = True
    sys.stdout = sys.stderr
    result = Verdicts()
    unittest.TestLoader().discover(folder, pattern="*.py", top_level_dir=folder).run(result)
    broken = {one.id() for one, _ in result.errors}
    tell({"verdict": {name: name not in broken and result.passed.get(name, False) for name in (*result.passed, *broken)}})
