"""Rows of published data sets: Python rows in the form of HumanEvalPack as repairs, those of SWE-bench as they are."""

import ast
from collections.abc import Iterator
from pathlib import Path

from core.types import Value
from environments.rows import BrokenRows, Row, parsed
from environments.swe.bench import BenchRow
from environments.swe.repair import Repair


class HumanEvalPackRow(Value):
    """The fields that are used; others are left aside."""

    task_id: str
    declaration: str
    canonical_solution: str
    buggy_solution: str
    test: str
    example_test: str
    entry_point: str
    prompt: str = ""
    test_setup: str = ""
    instruction: str = ""
    bug_type: str = ""


def read_repairs(path: Path, broken: BrokenRows = BrokenRows.REFUSE) -> Iterator[Repair | BenchRow]:
    """What the rows of a file ask for; one with an `instance_id` is of SWE-bench. Raises BadData naming file, row, field."""
    return (found for _, found in parsed(path, _read, broken))


def _read(row: Row) -> Repair | BenchRow:
    kind = BenchRow if "instance_id" in row else HumanEvalPackRow
    found = kind.model_validate({name: row[name] for name in kind.model_fields if row.get(name) is not None})
    return found if isinstance(found, BenchRow) else human_eval(found)


def human_eval(row: HumanEvalPackRow) -> Repair:
    """The function in `solution.py`, its example as the visible test, its test as the hidden one."""
    broken, right = row.declaration + row.buggy_solution, row.declaration + row.canonical_solution
    names = _functions(row.entry_point, right, "canonical_solution")
    _functions(row.entry_point, broken, "buggy_solution")
    about = row.instruction or row.prompt or row.declaration
    return Repair(
        name=row.task_id.replace("/", "-"),
        statement=f"`{row.entry_point}` in solution.py has a bug. Find it and mend it.\n\n{about.strip()}\n\n"
        "The tests are run by `python3 -m unittest discover tests`.",
        files={"solution.py": broken, "tests/test_example.py": _test(row, names, row.example_test, "example_test")},
        hidden={"test_hidden.py": _test(row, names, row.test, "test")},
        fixed={"solution.py": right},
    )


def _functions(entry_point: str, source: str, field: str) -> list[str]:
    """Names of the functions of a solution. Raises ValueError where it is no Python or lacks the entry point."""
    names = [node.name for node in _parse(source, field).body if isinstance(node, ast.FunctionDef)]
    if entry_point not in names:
        raise ValueError(f"{field}: defines {', '.join(names) or 'nothing'}, expected the entry point {entry_point!r}")
    return names


def _test(row: HumanEvalPackRow, names: list[str], test: str, field: str) -> str:
    """A test of the row as one unittest case: its statements run inside of it, so that none of them is passed over."""
    body = _parse(f"{row.test_setup}\n{test}", field).body
    imports = [f"from solution import {name}" for name in names]
    path = ["import sys", "from pathlib import Path", "", "sys.path.insert(0, str(Path(__file__).parent.parent))"]
    lines = [*path, "import unittest", *imports, "", "", "class TestSolution(unittest.TestCase):", "    def test_all(self):"]
    inner = "\n".join(ast.unparse(statement) for statement in body) or "pass"
    return "\n".join([*lines, *(f"        {line}" if line else "" for line in inner.split("\n"))]) + "\n"


def _parse(source: str, field: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{field}: is no Python: {error}") from error
