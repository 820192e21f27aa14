"""Scores the agent's tools: what they register, accept and return, asked one call at a time."""

from collections.abc import Sequence

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.fork_client import ChildMistake, Fork
from environments.nat_agent.oracle import Call, ToolOracle
from environments.nat_agent.values import same

LOADED_STAGES = ("config", "build", "schema", "ready")
SCHEMA_KEYS = ("type", "items", "enum")


def no_scores(oracle: ToolOracle) -> dict[str, float]:
    """The sub-scores that a tool can earn, none of them earned yet."""
    scores = {"tool_registers": 0.0, "tool_builds": 0.0, "tool_schema": 0.0, "tool_behaviour": 0.0}
    if oracle.refused:
        scores["tool_errors"] = 0.0
    if oracle.settings:
        scores["tool_settings"] = 0.0
    return scores


async def judge_tool(fork: Fork, oracle: ToolOracle, report: JsonValue, scores: dict[str, float], problems: list[str]) -> None:
    """Fill in `scores` of one tool. `report` is what the child said when it loaded it.

    Raises ChildLost when the child goes away; what was earned until then stays.
    """
    name = oracle.planned.name
    facts = report if isinstance(report, dict) else {}
    scores["tool_registers"] = float(facts.get("stage") in LOADED_STAGES)
    if facts.get("stage") != "ready":
        problems.append(f"nat_tools/{name}.py: {facts.get('error', 'not loaded')}")
        return
    description = facts.get("description")
    scores["tool_builds"] = 1.0 if isinstance(description, str) and description.strip() else 0.5
    scores["tool_schema"] = schema_likeness(oracle.input_schema, facts.get("input_schema"))
    scores["tool_behaviour"] = await _share_right(fork, oracle, oracle.behaviour, problems)
    if scores["tool_behaviour"] == 0:
        return
    if oracle.settings:
        scores["tool_settings"] = await _share_right(fork, oracle, oracle.settings, problems)
    if oracle.refused:
        scores["tool_errors"] = await _share_refused(fork, name, oracle.refused, problems)


def schema_likeness(expected: JsonObject, found: JsonValue) -> float:
    """The share of arguments that have the planned name, type and need, over all that either schema has."""
    wanted, given = _arguments(expected), _arguments(found if isinstance(found, dict) else {})
    names = wanted.keys() | given.keys()
    return sum(name in wanted and given.get(name) == wanted[name] for name in names) / len(names) if names else 1.0


def _arguments(schema: JsonObject) -> dict[str, JsonValue]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return {}
    needed = required if isinstance(required, list) else []
    return {
        name: {"required": name in needed, **{key: about[key] for key in SCHEMA_KEYS if key in about}}
        for name, about in properties.items()
        if isinstance(about, dict)
    }


async def _share_right(fork: Fork, oracle: ToolOracle, calls: Sequence[Call], problems: list[str]) -> float:
    """The share of calls that return the expected value; the first one that does not is told of."""
    name = oracle.planned.name
    answers = await fork.ask_all([_request(name, call.settings, call.arguments) for call in calls])
    verdicts = [_wrong(oracle, call, answer) for call, answer in zip(calls, answers, strict=True)]
    wrong = [problem for problem in verdicts if problem is not None]
    problems += [f"{name}: {problem}" for problem in wrong[:1]]
    return (len(calls) - len(wrong)) / len(calls)


def _wrong(oracle: ToolOracle, call: Call, answer: JsonObject | ChildMistake) -> str | None:
    if isinstance(answer, ChildMistake):
        return str(answer)
    if "value" in answer and same(call.expected, answer["value"], oracle.planned.output_schema):
        return None
    value = answer.get("value")
    shown = f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)[:60]
    return f"returns {shown}{' with other settings' if call.settings else ''} where another value is right"


async def _share_refused(fork: Fork, name: str, refused: Sequence[JsonObject], problems: list[str]) -> float:
    answers = await fork.ask_all([_request(name, {}, arguments) for arguments in refused])
    right = sum(isinstance(answer, ChildMistake) for answer in answers)
    problems += [f"{name}: answers although an argument is missing"] * (len(refused) - right)
    return right / len(refused)


def _request(tool: str, settings: JsonObject, arguments: JsonObject) -> JsonObject:
    return {"do": "call", "tool": tool, "config": settings, "arguments": arguments}
