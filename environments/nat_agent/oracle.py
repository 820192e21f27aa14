"""What the right answers are: hidden inputs, and what the hidden references return for them.

References run in a fork that no agent code enters. Each spec is asked once; the answers serve all evaluations of it.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import JsonValue

from core.errors import RewardError
from core.types import JsonObject
from environments.nat_agent.fork_client import ChildLost, ChildMistake, Fork
from environments.nat_agent.inputs import draw
from environments.nat_agent.plan import AgentSpec, ConfigField, HiddenTool, PlannedTool

BEHAVIOUR_CALLS, SETTING_CALLS, CANDIDATES = 12, 2, 24


class Call(NamedTuple):
    """One call of a tool made with some settings, and what it must return."""

    settings: JsonObject
    arguments: JsonObject
    expected: JsonValue


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


async def ask_oracle(spec: AgentSpec, fork: Fork, secret: str) -> SpecOracle:
    """Draw hidden inputs, from the task's id and the secret, and ask the references. Raises RewardError for a broken one."""
    try:
        await fork.ask({"do": "files", "files": {f"nat_tools/{hidden.name}.py": hidden.reference for hidden in spec.hidden}})
        reports = await fork.ask({"do": "load", "names": [hidden.name for hidden in spec.hidden]})
        pairs = zip(spec.plan.custom_tools, spec.hidden, strict=True)
        return SpecOracle(
            tuple(
                [await _tool(fork, tool, hidden, reports[hidden.name], _chance(spec, hidden, secret)) for tool, hidden in pairs]
            )
        )
    except (ChildLost, ChildMistake) as error:
        raise RewardError(f"task {spec.task_id!r}: a reference does not work: {error}") from error


def _chance(spec: AgentSpec, hidden: HiddenTool, secret: str) -> random.Random:
    return random.Random(hashlib.sha256(f"{secret}/{spec.task_id}/{hidden.name}".encode()).digest())


async def _tool(fork: Fork, planned: PlannedTool, hidden: HiddenTool, report: JsonValue, chance: random.Random) -> ToolOracle:
    if not isinstance(report, dict) or report.get("stage") != "ready":
        raise ChildMistake(f"{hidden.name}: {report}")
    schema = report["input_schema"]
    assert isinstance(schema, dict)
    candidates = [draw(hidden.inputs, chance) for _ in range(CANDIDATES)]
    calls = [Call({}, arguments, await _value(fork, hidden.name, {}, arguments)) for arguments in candidates]
    return ToolOracle(
        planned=planned,
        input_schema=schema,
        behaviour=tuple(calls[:BEHAVIOUR_CALLS]),
        settings=await _setting_calls(fork, planned, calls),
        refused=await _refused(fork, hidden.name, candidates[0]),
        scenario=next((call for call in reversed(calls) if call.expected not in ("", None)), calls[-1]),
    )


async def _value(fork: Fork, tool: str, settings: JsonObject, arguments: JsonObject) -> JsonValue:
    answer = await fork.ask({"do": "call", "tool": tool, "config": settings, "arguments": arguments})
    return answer.get("value")


async def _setting_calls(fork: Fork, planned: PlannedTool, calls: Sequence[Call]) -> tuple[Call, ...]:
    """Calls with every setting changed, where possible on arguments for which that makes a difference."""
    found: list[Call] = []
    for shift in (1, 2) if planned.config else ():
        settings: JsonObject = {field.name: another(field, shift) for field in planned.config}
        tried = [(call, await _value(fork, planned.name, settings, call.arguments)) for call in calls]
        telling = [pair for pair in tried if pair[1] != pair[0].expected] or tried
        found += [Call(settings, call.arguments, value) for call, value in telling[:SETTING_CALLS]]
    return tuple(found)


def another(field: ConfigField, shift: int) -> JsonValue:
    """A value for a setting that is not its default."""
    default = field.default
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + shift
    return f"{default}{'x' * shift}"


async def _refused(fork: Fork, tool: str, arguments: JsonObject) -> tuple[JsonObject, ...]:
    """Arguments with one missing, where the reference refuses them."""
    last = list(arguments)[-1]
    incomplete = {name: value for name, value in arguments.items() if name != last}
    try:
        await _value(fork, tool, {}, incomplete)
    except ChildMistake:
        return (incomplete,)
    return ()
