"""The shape of the house: who may import whom, how long things may be, what they may not be called."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "core": set(),
    "tool_call_parsers": {"core"},
    "backends": {"core"},
    "environments": {"core", "backends", "tool_call_parsers"},
    "trainer": {"core", "tool_call_parsers"},
    "services": {"core", "backends", "tool_call_parsers", "environments", "trainer"},
}
IN_SANDBOX = ("backends.agent", "environments.nat_agent.runtime", "environments.swe.inside")  # under another interpreter, alone
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ARGUMENTS = 400, 60, 6
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "base2"}
FILES = sorted(
    path.relative_to(ROOT).as_posix() for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py") if path.is_file()
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_of(file): file for file in FILES}


def imports(file: str) -> Iterator[str]:
    """Dotted names that a file imports anywhere in it: a module of ours where there is one of that name."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = ".".join(part for part in (_package_above(file, node.level), node.module) if part)
            inner = [f"{source}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else source for name in inner)


def _package_above(file: str, level: int) -> str:
    return ".".join(Path(file).parts[:-level]) if level else ""


def functions(file: str) -> Iterator[Function]:
    return (node for node in ast.walk(tree(file)) if isinstance(node, Function))


def arguments(function: Function) -> list[str]:
    listed = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [argument.arg for argument in listed if argument.arg not in ("self", "cls")]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import cycle, in order, or nothing."""
    done: set[str] = set()
    path: list[str] = []

    def walk(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        found = next((ring for target in sorted(graph[module]) if (ring := walk(target))), [])
        path.pop()
        done.add(module)
        return found

    return next((ring for module in sorted(graph) if (ring := walk(module))), [])


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_an_import_goes_down_never_up_or_sideways(package: str):
    allowed = MAY_IMPORT[package] | {package}
    files = [file for file in FILES if file.startswith(f"{package}/")]
    assert files
    breaches = [
        f"{file} imports {name}"
        for file in files
        for name in imports(file)
        if (top := name.partition(".")[0]) in MAY_IMPORT and top not in allowed
    ]
    assert breaches == []


def test_core_imports_the_standard_library_pydantic_msgpack_and_at_need_yaml():
    known = {"core", "pydantic", "msgpack", "yaml"} | sys.stdlib_module_names
    imported = {name.partition(".")[0] for file in FILES if file.startswith("core/") for name in imports(file)}
    assert imported - known == set()


def test_no_import_of_a_test_or_benchmark():
    breaches = [
        f"{file} imports {name}" for file in FILES for name in imports(file) if name.split(".")[0] in ("tests", "benchmarks")
    ]
    assert breaches == []


@pytest.mark.parametrize("package", IN_SANDBOX)
def test_what_runs_inside_a_sandbox_imports_nothing_else_of_natgym(package: str):
    inside = [file for module, file in MODULES.items() if f"{module}.".startswith(f"{package}.")]
    breaches = [
        f"{file} imports {name}"
        for file in inside
        for name in imports(file)
        if name.partition(".")[0] in MAY_IMPORT and not f"{name}.".startswith(f"{package}.")
    ]
    assert inside
    assert breaches == []


def test_no_modules_import_each_other_in_a_ring():
    graph = {module: {name for name in imports(file) if name in MODULES} - {module} for module, file in MODULES.items()}
    assert cycle(graph) == []


def test_a_ring_would_be_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_file_is_longer_than_a_screenful_of_ideas():
    lengths = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: length for file, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen():
    lengths = {f"{file}:{node.name}": (node.end_lineno or 0) - node.lineno + 1 for file in FILES for node in functions(file)}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_no_function_takes_more_than_six_arguments():
    counts = {f"{file}:{node.name}": arguments(node) for file in FILES for node in functions(file)}
    assert {name: listed for name, listed in counts.items() if len(listed) > MAX_ARGUMENTS} == {}


def test_nothing_has_a_name_that_says_nothing():
    named = {file: {part.removesuffix(".py") for part in Path(file).parts} for file in FILES}
    assert {file: parts & EMPTY_NAMES for file, parts in named.items() if parts & EMPTY_NAMES} == {}
