"""Scores the agent's own tests by discrimination: they pass on right tools and fail on wrong ones.

What pytest's exit code says counts for nothing. Each world is a set of tools, right or wrong ones, in a process of its
own. A test speaks of a tool if it passes wherever that tool is right; it catches a mutant if it fails where that mutant is.
A suite that cannot tell worlds apart is worth nothing, whatever it prints.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from core.types import JsonObject
from environments.nat_agent.effort import Effort
from environments.nat_agent.plan import HiddenTool, PlannedTool
from environments.nat_agent.variants import mutants, variants

Outcomes = Mapping[str, str]
"""Test id -> passed, failed, skipped ..."""


RIGHT: Mapping[str, float] = MappingProxyType({})


class World(NamedTuple):
    """A source for every planned tool."""

    sources: Mapping[str, str]
    """Path -> source."""
    wrong: frozenset[str]
    """Names of the tools that are mutants."""


RunWorld = Callable[[Mapping[str, str]], Awaitable[Outcomes]]


class Stock(NamedTuple):
    """The programs that stand for one tool."""

    name: str
    right: tuple[str, ...]
    """The reference, then variants of it."""
    wrong: tuple[str, ...]

    def placed(self, *, right: int = 0, wrong: int | None = None) -> tuple[str, str, bool]:
        """Path, source and whether it is a mutant."""
        source = self.right[right % len(self.right)] if wrong is None else self.wrong[wrong]
        return _path(self.name), source, wrong is not None


def stock(planned: Sequence[PlannedTool], hidden: Sequence[HiddenTool], effort: Effort) -> list[Stock]:
    """The right and wrong programs for every tool of a plan."""
    return [
        Stock(
            secret.name,
            (secret.reference, *variants(secret, effort.variants)),
            mutants(tool, secret, effort.mutants) if effort.variants else secret.mutants[: effort.mutants],
        )
        for tool, secret in zip(planned, hidden, strict=True)
    ]


async def judge_tests(
    tools: Sequence[Stock], own: Outcomes, run: RunWorld, problems: list[str], behaviour: Mapping[str, float] = RIGHT
) -> float:
    """The mean over tools of the share of mutants that its tests catch; 0 for one whose tests fail on a right tool.

    `behaviour`: how much of each agent's own tool is right, by name. That much is what tests that pass on it can earn: a
    wrong tool can make them pass.
    """
    candidates = [tool for tool in tools if _passes(own, tool.name)]
    problems += [f"tests/test_{tool.name}.py: {_why(own, tool.name)}" for tool in tools if tool not in candidates]
    if not candidates:
        return 0.0
    right, *others = worlds(tools, apart=not _has_own_files(own, candidates))
    on_reference = await run(right.sources)
    sound = [tool for tool in candidates if _passes(on_reference, tool.name)]
    problems += [f"tests/test_{tool.name}.py: fails on a right tool" for tool in candidates if tool not in sound]
    if not sound:
        return 0.0
    seen = [(world, await run(world.sources)) for world in others]
    shares = {tool.name: _share_caught(tool, seen, problems) for tool in sound}
    return sum(share * behaviour.get(name, 1.0) for name, share in shares.items()) / len(tools)


def worlds(tools: Sequence[Stock], *, apart: bool) -> list[World]:
    """The worlds that tests are tried in; in the first one all tools are references.

    With variants: each further world has every tool as one of its mutants but for one world, another one for each tool,
    where it is a variant; a single tool is alone in as many worlds as it has programs. Without variants: all tools are
    mutants at once, or, `apart`, one at a time.
    """
    first = _world([tool.placed() for tool in tools])
    if len(tools) == 1:
        (tool,) = tools
        rows = [[tool.placed(right=index)] for index in range(1, len(tool.right))]
        rows += [[tool.placed(wrong=index)] for index in range(len(tool.wrong))]
    elif len(tools[0].right) > 1:
        rows = _crossed(tools)
    elif apart:
        rows = [
            [other.placed(wrong=index if other is tool else None) for other in tools]
            for tool in tools
            for index in range(len(tool.wrong))
        ]
    else:
        longest = max(len(tool.wrong) for tool in tools)
        rows = [[tool.placed(wrong=index if index < len(tool.wrong) else None) for tool in tools] for index in range(longest)]
    return [first, *(_world(row) for row in rows)]


def _crossed(tools: Sequence[Stock]) -> list[list[tuple[str, str, bool]]]:
    """Rows in which tool `i` is right in row `i` and wrong in all others, as far as it has mutants."""
    count = 1 + max(len(tool.wrong) for tool in tools)
    rows: list[list[tuple[str, str, bool]]] = [[] for _ in range(count)]
    for index, tool in enumerate(tools):
        left = iter(range(len(tool.wrong)))
        for number, row in enumerate(rows):
            mutant = None if number == index % count else next(left, None)
            row.append(tool.placed(right=1 + index % (len(tool.right) - 1), wrong=mutant))
    return rows


def _world(row: Sequence[tuple[str, str, bool]]) -> World:
    return World(
        {path: source for path, source, _ in row},
        frozenset(path.removeprefix("nat_tools/").removesuffix(".py") for path, _, wrong in row if wrong),
    )


def _share_caught(tool: Stock, seen: Sequence[tuple[World, Outcomes]], problems: list[str]) -> float:
    """The share of a tool's mutants that its tests catch."""
    where_right = [_of(outcomes, tool.name) for world, outcomes in seen if tool.name not in world.wrong]
    where_wrong = [_of(outcomes, tool.name) for world, outcomes in seen if tool.name in world.wrong]
    tests = {test for outcomes in where_wrong for test in outcomes}
    steady = {test for test in tests if all(outcomes.get(test) != "failed" for outcomes in where_right)}
    if where_right and any(not outcomes for outcomes in where_right):
        steady = set()  # a world that took its process down
    caught = sum(any(outcomes.get(test) == "failed" for test in steady) for outcomes in where_wrong)
    if caught < len(where_wrong):
        problems.append(f"tests/test_{tool.name}.py: does not notice a wrong tool")
    return caught / len(where_wrong) if where_wrong else 1.0


def outcomes_of(facts: JsonObject) -> dict[str, str]:
    """Test id -> outcome from a child's report."""
    found = facts.get("outcomes")
    return {name: outcome for name, outcome in found.items() if isinstance(outcome, str)} if isinstance(found, dict) else {}


def _path(name: str) -> str:
    return f"nat_tools/{name}.py"


def _of(outcomes: Outcomes, name: str) -> Outcomes:
    """The tests that may speak of a tool: those of its own test file where there is one, else all."""
    file = f"tests/test_{name}.py"
    return {test: outcome for test, outcome in outcomes.items() if test.partition("::")[0] == file} or outcomes


def _has_own_files(outcomes: Outcomes, tools: Sequence[Stock]) -> bool:
    files = {test.partition("::")[0] for test in outcomes}
    return len(tools) == 1 or all(f"tests/test_{tool.name}.py" in files for tool in tools)


def _passes(outcomes: Outcomes, name: str) -> bool:
    found = _of(outcomes, name).values()
    return "passed" in found and "failed" not in found


def _why(outcomes: Outcomes, name: str) -> str:
    return "fails on the agent's own tool" if "failed" in _of(outcomes, name).values() else "has no test that passes"
