"""Scores the agent's own tests by discrimination: they pass on right tools and fail on wrong ones.

What pytest's exit code says counts for nothing. Each world is a set of tools: the agent's own, the reference, and sets
of mutants. A suite that cannot tell them apart is worth nothing, whatever it prints.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from core.types import JsonObject
from environments.nat_agent.plan import HiddenTool

MUTANT_SETS = 2

Outcomes = Mapping[str, str]
"""Test id -> passed, failed, skipped ..."""
World = Mapping[str, str]
"""Path -> source of every planned tool."""
RunWorld = Callable[[World], Awaitable[Outcomes]]


async def judge_tests(hidden: Sequence[HiddenTool], own: Outcomes, run: RunWorld, problems: list[str]) -> float:
    """The mean over tools of: passes on the agent's tool and on the reference, times the share of mutants that it catches."""
    candidates = [tool for tool in hidden if _passes(own, tool.name)]
    problems += [f"tests/test_{tool.name}.py: {_why(own, tool.name)}" for tool in hidden if tool not in candidates]
    if not candidates:
        return 0.0
    reference = await run(reference_world(hidden))
    sound = [tool for tool in candidates if _passes(reference, tool.name)]
    problems += [f"tests/test_{tool.name}.py: fails on a right tool" for tool in candidates if tool not in sound]
    caught = {tool.name: 0 for tool in sound}
    tried = {tool.name: 0 for tool in sound}
    for world, names in mutant_worlds(sound, hidden, apart=not _has_own_files(own, sound)):
        outcomes = await run(world)
        for name in names:
            tried[name] += 1
            caught[name] += _fails(outcomes, name)
    problems += [f"tests/test_{name}.py: does not notice a wrong tool" for name in caught if caught[name] < tried[name]]
    return sum(caught[name] / tried[name] for name in caught) / len(hidden)


def reference_world(hidden: Sequence[HiddenTool]) -> dict[str, str]:
    """Every planned tool, right."""
    return {_path(tool.name): tool.reference for tool in hidden}


def mutant_worlds(sound: Sequence[HiddenTool], hidden: Sequence[HiddenTool], *, apart: bool) -> list[tuple[World, list[str]]]:
    """Worlds with wrong tools, each with the names of the tools that are wrong in it.

    Where each tool has a test file of its own, one world has all tools wrong at once; else (`apart`) one tool each.
    """
    right = reference_world(hidden)
    worlds: list[tuple[World, list[str]]] = []
    for number in range(MUTANT_SETS):
        wrong = {tool.name: tool.mutants[number] for tool in sound if number < len(tool.mutants)}
        if apart:
            worlds += [({**right, _path(name): source}, [name]) for name, source in wrong.items()]
        elif wrong:
            worlds.append(({**right, **{_path(name): source for name, source in wrong.items()}}, list(wrong)))
    return worlds


def outcomes_of(facts: JsonObject) -> dict[str, str]:
    """Test id -> outcome from a child's report."""
    found = facts.get("outcomes")
    return {name: outcome for name, outcome in found.items() if isinstance(outcome, str)} if isinstance(found, dict) else {}


def _path(name: str) -> str:
    return f"nat_tools/{name}.py"


def _of(outcomes: Outcomes, name: str) -> list[str]:
    """The outcomes that speak of a tool: those of its own test file where there is one, else all."""
    file = f"tests/test_{name}.py"
    own = [outcome for test, outcome in outcomes.items() if test.partition("::")[0] == file]
    return own or list(outcomes.values())


def _has_own_files(outcomes: Outcomes, tools: Sequence[HiddenTool]) -> bool:
    files = {test.partition("::")[0] for test in outcomes}
    return len(tools) == 1 or all(f"tests/test_{tool.name}.py" in files for tool in tools)


def _passes(outcomes: Outcomes, name: str) -> bool:
    found = _of(outcomes, name)
    return "passed" in found and "failed" not in found


def _fails(outcomes: Outcomes, name: str) -> bool:
    return "failed" in _of(outcomes, name)


def _why(outcomes: Outcomes, name: str) -> str:
    return "fails on the agent's own tool" if "failed" in _of(outcomes, name) else "has no test that passes"
