"""Injected bugs are small, of every kind, and noticed by a test that is seen and by one that is not."""

import ast
from collections import Counter

import pytest

from environments.swe.bugs import CHANGES, mutants
from environments.swe.generator import outcomes, repairs
from environments.swe.held_out_programs import HELD_OUT
from environments.swe.programs import TRAIN, Program
from environments.swe.repair import Repair, is_source

SOURCE = """
def f(a, b=2, loud=False):
    if a < b and loud:
        a = a + 1
    elif a in (7, 8):
        return 0
    return a // b
"""


def made(kind: str) -> list[str]:
    return [mutant.source for mutant in mutants(SOURCE) if mutant.kind == kind]


def changed_lines(source: str) -> list[str]:
    before = ast.unparse(ast.parse(SOURCE)).splitlines()
    return [line.strip() for line in source.splitlines() if line not in before]


def test_an_operator_is_replaced():
    assert sorted(line for source in made("mutated_operator") for line in changed_lines(source)) == [
        "a = a - 1",
        "elif a not in (7, 8):",
        "if a < b or loud:",
        "if a <= b and loud:",
        "return a * b",
    ]


def test_a_number_is_one_too_large_or_too_small():
    lines = sorted(line for source in made("off_by_one") for line in changed_lines(source))
    assert lines == ["a = a + 0", "a = a + 2", "return -1", "return 1"]


def test_a_default_is_another_one():
    assert [changed_lines(source) for source in made("wrong_default")] == [
        ["def f(a, b=3, loud=False):"],
        ["def f(a, b=2, loud=True):"],
    ]


def test_a_branch_is_missing():
    first, second = made("missing_branch")
    assert "a + 1" not in first
    assert "if a in (7, 8):" in first
    assert "return 0" not in second
    assert "if a < b and loud:" in second


def test_every_kind_of_bug_is_made_and_the_splits_share_no_program():
    train, held_out = (list(repairs(programs)) for programs in (TRAIN, HELD_OUT))
    assert not {program.name for program in TRAIN} & {program.name for program in HELD_OUT}
    for made_repairs in (train, held_out):
        kinds = Counter(one.name.split("-")[1] for one in made_repairs)
        assert set(kinds) == set(CHANGES)
        assert len({one.name for one in made_repairs}) == len(made_repairs) >= 50


def unittest_verdicts(repair: Repair, files: dict[str, str], tests: str) -> list[bool]:
    """Which assertions of a generated test file hold, each run by itself, in this process: the sources are ours."""
    import sys
    import types
    import unittest

    path = next(path for path in files if is_source(path))
    module = types.ModuleType(path.removesuffix(".py"))
    exec(files[path], module.__dict__)
    sys.modules[module.__name__] = module
    try:
        names: dict = {"__file__": "/nowhere/tests/test.py", "__name__": "generated"}
        kept = list(sys.path)
        exec(tests, names)
        sys.path[:] = kept
        (case,) = [value for value in names.values() if isinstance(value, type) and issubclass(value, unittest.TestCase)]
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
        return [not (result := unittest.TestResult(), one.run(result))[0].failures and not result.errors for one in suite]
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize("program", [*TRAIN, *HELD_OUT], ids=lambda program: program.name)
def test_tests_fail_on_the_bug_and_pass_on_the_repair(program: Program):
    for repair in repairs([program]):
        visible = next(text for path, text in repair.files.items() if not is_source(path))
        (hidden,) = repair.hidden.values()
        broken = {path: text for path, text in repair.files.items() if is_source(path)}
        for tests in (visible, hidden):
            assert not all(unittest_verdicts(repair, broken, tests)), repair.name
            assert all(unittest_verdicts(repair, repair.fixed, tests)), repair.name


@pytest.mark.parametrize("program", [*TRAIN, *HELD_OUT], ids=lambda program: program.name)
def test_programs_are_what_their_calls_say_and_use_no_loop_that_could_last(program: Program):
    assert not [node for node in ast.walk(ast.parse(program.source)) if isinstance(node, (ast.While, ast.Import))]
    assert len(set(program.calls)) == len(program.calls)
    assert len(set(outcomes(program.source, program.calls).values())) > 3
