"""What the right answers are: hidden inputs, and what the hidden references return for them.

References run in a fork that no agent code enters. Each spec is asked once; the answers serve all evaluations of it.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from core.errors import RewardError
from core.types import JsonObject
from environments.nat_agent.effort import Effort
from environments.nat_agent.fork_client import ChildLost, ChildMistake, Fork
from environments.nat_agent.inputs import draw, edges
from environments.nat_agent.plan import AgentPlan, AgentSpec, ConfigField, HiddenTool, PlannedTool

SEQUENTIAL = "sequential_executor"
ONE_TEXT = frozenset({"router_agent", SEQUENTIAL})
"""Scaffolds in which no LLM writes arguments: NAT hands the question, a text, to a tool as its only argument."""
SETTING_CALLS, SPARE_INPUTS, CHAIN_TRIES = 2, 12, 4
NEVER_RIGHT: Mapping[str, JsonValue] = {
    "number": "many",
    "integer": "many",
    "boolean": "perhaps",
    "string": ["a", "list"],
    "array": "no list",
    "object": "no object",
}
"""JSON type -> a value that is of no such type, nor can be read as one."""
FITS = frozenset({("integer", "number")})


class Call(NamedTuple):
    """One call of a tool made with some settings, and what it must return."""

    settings: JsonObject
    arguments: JsonObject
    expected: JsonValue


class Link(NamedTuple):
    """One call of a chain."""

    planned: PlannedTool
    call: Call
    fed: str | None
    """The argument that is the previous call's answer."""


class ToolOracle(NamedTuple):
    """What is known of one planned tool."""

    planned: PlannedTool
    input_schema: JsonObject
    """Of the reference, as NAT makes it."""
    behaviour: tuple[Call, ...]
    settings: tuple[Call, ...]
    """With settings other than the defaults; empty where the plan has none."""
    refused: tuple[JsonObject, ...]
    """Arguments that the tool must refuse."""
    scenario: Call


class SpecOracle(NamedTuple):
    """What is known of one spec, its tools in the plan's order."""

    tools: tuple[ToolOracle, ...]
    chain: tuple[Link, ...] = ()
    """Two calls, the second one with the first one's answer; empty where no tool takes what one returns."""
    pipe: tuple[Link, ...] = ()
    """For a sequential executor: one call of every tool in the plan's order, each with the answer of the one before."""


async def ask_oracle(spec: AgentSpec, fork: Fork, secret: str, effort: Effort) -> SpecOracle:
    """Draw hidden inputs, from the task's id and the secret, and ask the references. Raises RewardError for a broken one."""
    references = References(fork, effort)
    try:
        await fork.ask({"do": "files", "files": {f"nat_tools/{hidden.name}.py": hidden.reference for hidden in spec.hidden}})
        reports = await fork.ask({"do": "load", "names": [hidden.name for hidden in spec.hidden]})
        pairs = zip(spec.plan.custom_tools, spec.hidden, strict=True)
        _check_arguments(spec.plan)
        tools = [
            await references.tool(tool, hidden, reports[hidden.name], _chance(spec, hidden, secret)) for tool, hidden in pairs
        ]
        chain = await references.chain(tools) if effort.scenarios else ()
        pipe = await references.pipe(tools) if spec.plan.scaffold_type == SEQUENTIAL else ()
        return SpecOracle(tuple(tools), chain, pipe)
    except (ChildLost, ChildMistake) as error:
        raise RewardError(f"task {spec.task_id!r}: a reference does not work: {error}") from error


def _check_arguments(plan: AgentPlan) -> None:
    """Raises ChildMistake for a tool that NAT cannot call in the plan's scaffold."""
    for tool in plan.custom_tools if plan.scaffold_type in ONE_TEXT else ():
        kinds = [about.get("type") for about in _properties(tool).values() if isinstance(about, dict)]
        if kinds != ["string"]:
            raise ChildMistake(f"{plan.scaffold_type}: {tool.name} must take one string, its arguments are {kinds}")


def _chance(spec: AgentSpec, hidden: HiddenTool, secret: str) -> random.Random:
    return random.Random(hashlib.sha256(f"{secret}/{spec.task_id}/{hidden.name}".encode()).digest())


class References:
    """The references of one spec, loaded in a fork."""

    def __init__(self, fork: Fork, effort: Effort) -> None:
        self._fork, self._effort = fork, effort

    async def tool(self, planned: PlannedTool, hidden: HiddenTool, report: JsonValue, chance: random.Random) -> ToolOracle:
        """What one reference answers. Raises ChildMistake where it was not loaded or does not answer."""
        if not isinstance(report, dict) or report.get("stage") != "ready":
            raise ChildMistake(f"{hidden.name}: {report}")
        schema = report["input_schema"]
        assert isinstance(schema, dict)
        count = self._effort.inputs
        drawn = [draw(hidden.inputs, chance) for _ in range(count + SPARE_INPUTS)]
        calls = [Call({}, *pair) for pair in zip(drawn, await self.values(hidden.name, {}, drawn), strict=True)]
        ends = await self._ends(hidden) if self._effort.scenarios else []
        return ToolOracle(
            planned=planned,
            input_schema=schema,
            behaviour=(*calls[: count - len(ends)], *ends),
            settings=await self._setting_calls(planned, calls),
            refused=await self._refused(planned, calls[0].arguments),
            scenario=next((call for call in reversed(calls) if call.expected not in ("", None)), calls[-1]),
        )

    async def values(self, tool: str, settings: JsonObject, calls: Sequence[JsonObject]) -> list[JsonValue]:
        """What a reference returns for each call's arguments. Raises ChildMistake where it refuses one."""
        answers = await self._fork.ask_all(
            [{"do": "call", "tool": tool, "config": settings, "arguments": arguments} for arguments in calls]
        )
        found: list[JsonValue] = []
        for answer in answers:
            if isinstance(answer, ChildMistake):
                raise answer
            found.append(answer.get("value"))
        return found

    async def _ends(self, hidden: HiddenTool) -> list[Call]:
        """Calls at both ends of the inputs, where the reference has an answer there."""
        found = [(arguments, await self._try(hidden.name, arguments)) for arguments in edges(hidden.inputs)]
        return [Call({}, arguments, answer[0]) for arguments, answer in found if answer]

    async def _try(self, tool: str, arguments: JsonObject) -> tuple[JsonValue] | None:
        try:
            (value,) = await self.values(tool, {}, [arguments])
            return (value,)
        except ChildMistake:
            return None

    async def _setting_calls(self, planned: PlannedTool, calls: Sequence[Call]) -> tuple[Call, ...]:
        """Calls with every setting changed, where possible on arguments for which that makes a difference."""
        found: list[Call] = []
        for shift in (1, 2) if planned.config else ():
            settings: JsonObject = {field.name: another(field, shift) for field in planned.config}
            values = await self.values(planned.name, settings, [call.arguments for call in calls])
            tried = list(zip(calls, values, strict=True))
            telling = [pair for pair in tried if pair[1] != pair[0].expected] or tried
            found += [Call(settings, call.arguments, value) for call, value in telling[:SETTING_CALLS]]
        return tuple(found)

    async def _refused(self, planned: PlannedTool, arguments: JsonObject) -> tuple[JsonObject, ...]:
        """Wrong calls that the reference refuses: an argument left out, or one of a wrong type."""
        wrong = wrong_calls(planned, arguments)[: self._effort.refusals]
        return tuple([call for call in wrong if await self._try(planned.name, call) is None])

    async def chain(self, tools: Sequence[ToolOracle]) -> tuple[Link, ...]:
        """Two calls that fit together, of two tools where possible, else of one."""
        pairs = [(first, second) for first in tools for second in tools if first is not second]
        for first, second in [*pairs, *((one, one) for one in tools)]:
            for call in first.behaviour[:CHAIN_TRIES]:
                if (link := await self._link(first.planned, call.expected, second)) is not None:
                    return (Link(first.planned, call, None), link)
        return ()

    async def pipe(self, tools: Sequence[ToolOracle]) -> tuple[Link, ...]:
        """All tools in order, as a sequential executor runs them. Raises ChildMistake where no input goes through."""
        for call in tools[0].behaviour:
            links = [Link(tools[0].planned, call, None)]
            for tool in tools[1:]:
                link = await self._link(links[-1].planned, links[-1].call.expected, tool)
                if link is None:
                    break
                links.append(link)
            if len(links) == len(tools):
                return tuple(links)
        raise ChildMistake(f"{SEQUENTIAL}: no hidden input goes through all tools")

    async def _link(self, source: PlannedTool, value: JsonValue, target: ToolOracle) -> Link | None:
        """A call of `target` with `value`, an answer of `source`, as one argument; None where types or values forbid it."""
        given = str(source.output_schema.get("type"))
        for name, about in _properties(target.planned).items():
            wanted = str(about.get("type")) if isinstance(about, dict) else ""
            if value in ("", None) or not (given == wanted in ("string", "number", "integer") or (given, wanted) in FITS):
                continue
            arguments = {**target.scenario.arguments, name: value}
            answer = await self._try(target.planned.name, arguments)
            if answer and answer[0] not in ("", None):
                return Link(target.planned, Call({}, arguments, answer[0]), name)
        return None


def another(field: ConfigField, shift: int) -> JsonValue:
    """A value for a setting that is not its default."""
    default = field.default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + shift
    return f"{default}{'x' * shift}"


def wrong_calls(planned: PlannedTool, arguments: JsonObject) -> list[JsonObject]:
    """Calls that no tool of that schema can make sense of: each argument left out, the last one first, or of a wrong type."""
    names = list(reversed(arguments))
    without: list[JsonObject] = [{name: value for name, value in arguments.items() if name != left_out} for left_out in names]
    properties = _properties(planned)
    types = {name: str(about.get("type")) for name in names if isinstance(about := properties.get(name), dict)}
    return without + [{**arguments, name: NEVER_RIGHT[kind]} for name, kind in types.items() if kind in NEVER_RIGHT]


def _properties(planned: PlannedTool) -> JsonObject:
    found = planned.input_schema.get("properties")
    return found if isinstance(found, dict) else {}
