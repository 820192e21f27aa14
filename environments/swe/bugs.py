"""Bugs, injected into the syntax tree of a module: one small change each, of the kinds that people make.

`mutants` yields every way to make one such change; whether it changes what tests see is for the caller to find out.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.In: ast.NotIn,
}


class Mutant(NamedTuple):
    """A module with one bug in it."""

    kind: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in a fixed order."""
    tree = ast.parse(source)
    for kind, change in CHANGES.items():
        sites = sum(1 for node in ast.walk(tree) for _ in change(copy.deepcopy(node)))
        for wanted in range(sites):
            yield Mutant(kind, ast.unparse(_changed(tree, change, wanted)))


def _changed(tree: ast.Module, change: "Change", wanted: int) -> ast.Module:
    """A copy of the tree with the change made at the site of that number."""
    copied = copy.deepcopy(tree)
    number = 0
    for node in ast.walk(copied):
        for make in change(node):
            if number == wanted:
                make()
                return ast.fix_missing_locations(copied)
            number += 1
    raise IndexError(wanted)


Change = Callable[[ast.AST], Iterator[Callable[[], None]]]
"""Gives, for each site in a node itself, what makes the change there."""


def mutated_operator(node: ast.AST) -> Iterator[Callable[[], None]]:
    """Another operator in place of one."""
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPPED:
        yield lambda: setattr(node, "op", SWAPPED[type(node.op)]())
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            if type(operator) in SWAPPED:
                yield lambda place=place, operator=operator: _put(node.ops, place, SWAPPED[type(operator)]())


def off_by_one(node: ast.AST) -> Iterator[Callable[[], None]]:
    """A number that is one too large or too small, defaults of parameters excepted."""
    for owner, name in _expressions(node):
        constant = getattr(owner, name)
        if isinstance(constant, ast.Constant) and type(constant.value) is int:
            for step in (1, -1):
                yield lambda owner=owner, name=name, value=constant.value + step: setattr(owner, name, ast.Constant(value))


def wrong_default(node: ast.AST) -> Iterator[Callable[[], None]]:
    """A parameter with another default."""
    if not isinstance(node, ast.FunctionDef):
        return
    for place, default in enumerate(node.args.defaults):
        if isinstance(default, ast.Constant) and isinstance(default.value, (bool, int, str)):
            wrong = _another(default.value)
            yield lambda place=place, wrong=wrong: _put(node.args.defaults, place, ast.Constant(wrong))


def missing_branch(node: ast.AST) -> Iterator[Callable[[], None]]:
    """A condition whose branch is not there: only what came otherwise is left."""
    for block in ("body", "orelse"):
        statements = getattr(node, block, None)
        if not isinstance(statements, list):
            continue
        for place, statement in enumerate(statements):
            if isinstance(statement, ast.If):
                left = statement.orelse or ([] if len(statements) > 1 else [ast.Pass()])
                yield lambda statements=statements, place=place, left=left: _splice(statements, place, left)


CHANGES: dict[str, Change] = {
    change.__name__: change for change in (mutated_operator, off_by_one, wrong_default, missing_branch)
}


def _expressions(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """(owner, field) of the expressions directly below a node, in which a number may stand."""
    names = {ast.BinOp: ("left", "right"), ast.Subscript: ("slice",), ast.Slice: ("lower", "upper", "step"),
             ast.Return: ("value",), ast.Assign: ("value",), ast.Compare: ("left",)}  # fmt: skip
    for name in names.get(type(node), ()):
        yield node, name


def _another(value: bool | int | str) -> bool | int | str:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else ("" if value else " ")


def _put(items: list, place: int, value: object) -> None:
    items[place] = value


def _splice(items: list, place: int, values: list) -> None:
    items[place : place + 1] = values
