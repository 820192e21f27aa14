"""Repositories with a bug whose tests really fail, and pass when it is mended. Made offline, the same ones every time."""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from environments.swe.bugs import Mutant, mutants
from environments.swe.programs import Program
from environments.swe.repair import Repair

VISIBLE_SHARE = 2  # of the calls of a program, one in so many is a test that the policy sees


def repairs(programs: Iterable[Program]) -> Iterator[Repair]:
    """Every bug of every program that a visible test and a hidden one notice."""
    for program in programs:
        right = ast.unparse(ast.parse(program.source))
        expected = outcomes(right, program.calls)
        seen = {right}
        for mutant in mutants(right):
            if mutant.source not in seen:
                seen.add(mutant.source)
                yield from _repair(program, right, mutant, expected)


def outcomes(source: str, calls: Iterable[str]) -> dict[str, str]:
    """What each call of a module comes to, as Python: the value, or `raises NAME`. The sources are the generator's own."""
    names: dict[str, Any] = {}
    exec(compile(source, "<program>", "exec"), names)  # noqa: S102
    return {call: _outcome(call, names) for call in calls}


def _outcome(call: str, names: Mapping[str, Any]) -> str:
    try:
        return repr(eval(call, dict(names)))  # noqa: S307
    except Exception as error:
        return f"raises {type(error).__name__}"


def _repair(program: Program, right: str, mutant: Mutant, expected: Mapping[str, str]) -> Iterator[Repair]:
    found = outcomes(mutant.source, program.calls)
    wrong = [call for call in program.calls if found[call] != expected[call]]
    # one of each kind at the least: half of the wrong ones, the first included, are shown
    shown = set(wrong[::VISIBLE_SHARE]) | {call for call in program.calls[::VISIBLE_SHARE] if call not in wrong}
    hidden = [call for call in wrong if call not in shown]
    if not hidden:
        return
    path, tests = f"{program.name}.py", f"tests/test_{program.name}.py"
    visible = {call: expected[call] for call in program.calls if call in shown}
    example = wrong[0]
    yield Repair(
        name=f"{program.name}-{mutant.kind}-{_digest(mutant.source)}",
        statement=f"`{example}` in {path} gives `{found[example]}`, expected `{expected[example]}`. There is a bug in {path}. "
        f"Find it and mend it; what the docstrings say is right. The tests are run by `python3 -m unittest discover tests`.",
        files={path: f"{mutant.source}\n", tests: written_tests(program.name, visible, beside=True)},
        hidden={f"test_{program.name}_hidden.py": written_tests(program.name, expected)},
        fixed={path: f"{right}\n"},
    )


def written_tests(module: str, expected: Mapping[str, str], *, beside: bool = False) -> str:
    """A file of unittest tests, one for each call; `beside`: it finds the module in the folder above its own."""
    path = ["import sys", "from pathlib import Path", "", "sys.path.insert(0, str(Path(__file__).parent.parent))", ""]
    lines = [*(path if beside else []), "import unittest", "", f"import {module}"]
    lines += ["", "", f"class Test{module.capitalize()}(unittest.TestCase):"]
    for number, (call, outcome) in enumerate(expected.items()):
        raises = outcome.removeprefix("raises ")
        check = f"self.assertEqual({module}.{call}, {outcome})"
        if raises != outcome:
            check = f"self.assertRaises({raises}, lambda: {module}.{call})"
        lines += [f"    def test_{number:02d}_{call.partition('(')[0]}(self):", f"        {check}", ""]
    return "\n".join(lines)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
