"""Calls against the tools that were offered: is there one of that name, and does its schema take the arguments?

Validators are compiled once per schema. Arguments were written by a model: nothing here raises on any of them.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from pydantic import JsonValue

from core.errors import did_you_mean
from core.types import JsonObject, ToolCall, ToolSpec
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.plain_schemas import fits

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_PROBLEM_CHARACTERS = 400
COMPILED_SCHEMAS = 1024
MAX_DEPTH = 64


def check_call(call: ToolCall, tools: Sequence[ToolSpec], read: JsonObject | None = None) -> MalformedCall | None:
    """What is wrong with a call, or None where it can be made. `read`: its arguments, where they were read before."""
    try:
        arguments = read_arguments(call.arguments) if read is None else read
    except ValueError as error:
        return _refused(call, CallStatus.BAD_JSON, str(error))
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        known = [tool.name for tool in tools]
        near = did_you_mean(call.name[:100], known)
        return _refused(call, CallStatus.UNKNOWN_TOOL, f"no tool {call.name[:100]!r}{near}; known: {', '.join(known)}")
    if fits(arguments, tool.parameters):
        return None
    problem = _schema_problem(arguments, tool.parameters)
    return _refused(call, CallStatus.WRONG_ARGUMENTS, f"{tool.name}: {problem}") if problem else None


def read_arguments(text: str) -> JsonObject:
    """The arguments of a call. Raises ValueError saying why they are not an object of plain JSON."""
    try:
        arguments = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("arguments are nested too deeply") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments must be an object, found {type(arguments).__name__}")
    problem = object_problem(arguments, text)
    if problem:
        raise ValueError(problem)
    return arguments


def object_problem(value: JsonObject, written: str) -> str:
    """Why an object cannot be passed on although it is JSON: half a surrogate pair, or depth. Else an empty string.

    `written` is its JSON text. Such values break what comes after: encoders, templates, validators.
    """
    if nested_too_deeply(value):
        return f"nested more than {MAX_DEPTH} deep"
    if not (written.isascii() or is_text(written)) or ("\\u" in written and not is_text(json.dumps(value, ensure_ascii=False))):
        return "holds half of a surrogate pair, which is no text"
    return ""


def is_text(text: str) -> bool:
    """Whether a string can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def nested_too_deeply(value: JsonValue) -> bool:
    """Whether a value is nested more than MAX_DEPTH deep."""
    if isinstance(value, dict):
        for one in value.values():
            if isinstance(one, (dict, list)):
                break
        else:
            return False
    level: list[JsonValue] = [value]
    for _ in range(MAX_DEPTH):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _schema_problem(arguments: JsonObject, schema: JsonObject) -> str:
    """The most telling problem, as `path: message`, or an empty string."""
    from jsonschema.exceptions import best_match

    try:
        error = best_match(_validator(json.dumps(schema)).iter_errors(arguments))
    except RecursionError:
        return "arguments are nested too deeply"
    if error is None:
        return ""
    where = ".".join(str(part) for part in error.absolute_path)
    return f"{where}: {error.message}" if where else error.message


@lru_cache(maxsize=COMPILED_SCHEMAS)
def _validator(schema: str) -> "Validator":
    from jsonschema import Draft202012Validator  # late: slower to import than everything else here together

    return Draft202012Validator(json.loads(schema))


def _refused(call: ToolCall, status: CallStatus, problem: str) -> MalformedCall:
    return MalformedCall(text=call.arguments, status=status, problem=_short(problem), call=call)


def _short(text: str) -> str:
    return text if len(text) <= MAX_PROBLEM_CHARACTERS else f"{text[: MAX_PROBLEM_CHARACTERS - 3]}..."


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
