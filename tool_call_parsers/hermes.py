"""The format of Hermes, Qwen2.5 and Qwen3: JSON inside `<tool_call>` tags, reasoning inside `<think>` tags.

    <think>why</think>text<tool_call>
    {"name": "write_file", "arguments": {"path": "a.py", "content": "x = 1"}}
    </tool_call>

A block ends where its JSON ends: a tag inside a JSON string is text. Line breaks inside strings are accepted, as are
`parameters` for `arguments` and a missing close tag after a complete object. Nothing else is repaired.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

from pydantic import JsonValue

from core.types import ToolCall, ToolSpec
from tool_call_parsers.base import CallStatus, MalformedCall, ParsedCompletion
from tool_call_parsers.schemas import check_call, is_text, object_problem

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK, END_THINK = "<think>", "</think>"
ARGUMENT_KEYS = ("arguments", "parameters")
SCAN_BUDGET = 8
"""Characters spent on blocks that turn out to be broken, as a multiple of the text: keeps hostile texts linear."""
POSITION_COST = 64
"""An error counts the line breaks before it: that many characters cost as much as one that is parsed."""

BLANKS = re.compile(r"[ \t\n\r]*")
CONTROL = re.compile(r"[\x00-\x1f]")


class HermesParser:
    """Parser of the hermes format. Holds no state."""

    name = "hermes"

    def parse(self, text: str, tools: Sequence[ToolSpec] = (), *, starts_in_reasoning: bool = False) -> ParsedCompletion:
        """Split one completion; see ToolCallParser. Time is linear in the length of the text."""
        text = text if is_text(text) else text.encode(errors="replace").decode()
        reasoning, answer = split_reasoning(text, starts_in_reasoning)
        content, blocks = _split_blocks(answer)
        checked = [check_call(block, tools) or block if tools and isinstance(block, ToolCall) else block for block in blocks]
        return ParsedCompletion(
            content=content,
            reasoning=reasoning,
            calls=tuple(block for block in checked if isinstance(block, ToolCall)),
            malformed=tuple(block for block in checked if isinstance(block, MalformedCall)),
        )


def split_reasoning(text: str, starts_in_reasoning: bool) -> tuple[str | None, str]:
    """Reasoning (None where there is none) and what follows it.

    A tool call inside reasoning that is never closed ends it; inside closed reasoning it is prose.
    """
    start = _skip(text, 0)
    opened = text.startswith(THINK, start)
    if not opened and not starts_in_reasoning:
        return None, text
    start = start + len(THINK) if opened else 0
    end = text.find(END_THINK, start)
    if end >= 0:
        return text[start:end].strip(), text[end + len(END_THINK) :]
    end = text.find(OPEN, start)
    return (text[start:].strip(), "") if end < 0 else (text[start:end].strip(), text[end:])


class _Broken(Exception):
    """A block that is not what the format promises; `end` is how far it was read."""

    def __init__(self, problem: str, end: int) -> None:
        self.end = end
        super().__init__(problem)


class _Found(NamedTuple):
    call: ToolCall
    end: int


def _split_blocks(text: str) -> tuple[str, list[ToolCall | MalformedCall]]:
    """The text outside of blocks, and the blocks in order."""
    outside: list[str] = []
    blocks: list[ToolCall | MalformedCall] = []
    position, budget = 0, SCAN_BUDGET * len(text)
    while (start := text.find(OPEN, position)) >= 0:
        outside.append(text[position:start])
        inside = start + len(OPEN)
        try:
            if budget < 0:
                raise _Broken("too many broken blocks before this one", inside)
            call, position = _read_block(text, inside)
            blocks.append(call)
        except _Broken as broken:
            budget -= broken.end - inside + start // POSITION_COST
            position = _end_of_broken(text, inside)
            blocks.append(_malformed(text[start:position], str(broken)))
    outside.append(text[position:])
    return "".join(outside).strip(), blocks


def _malformed(block: str, problem: str) -> MalformedCall:
    status = CallStatus.BAD_JSON if block.endswith(CLOSE) else CallStatus.UNCLOSED
    return MalformedCall(text=block, status=status, problem=problem)


def _end_of_broken(text: str, inside: int) -> int:
    """Just after the next close tag, or at the next open tag or the end of the text, whichever is first."""
    following = text.find(OPEN, inside)
    limit = following if following >= 0 else len(text)
    close = text.find(CLOSE, inside, limit)
    return close + len(CLOSE) if close >= 0 else limit


def _read_block(text: str, start: int) -> _Found:
    """The call whose body begins at `start`, and where its block ends. Raises _Broken."""
    try:
        call, end = _read_call(text, start)
    except json.JSONDecodeError as error:
        end = len(text) if error.msg.startswith("Unterminated") else error.pos
        raise _Broken(f"not JSON: {error.msg} at character {error.pos - start} of the block", end) from error
    except RecursionError as error:
        raise _Broken("not JSON: nested too deeply", len(text)) from error
    except ValueError as error:  # a number of more digits than Python reads, Infinity, NaN
        raise _Broken(f"not JSON: {error}", len(text)) from error
    end = _skip(text, end)
    if text.startswith(CLOSE, end):
        return _Found(call, end + len(CLOSE))
    if end == len(text) or text.startswith(OPEN, end):
        return _Found(call, end)
    raise _Broken(f"expected {CLOSE} after the JSON object, found {text[end : end + 20]!r}", end)


def _read_call(text: str, start: int) -> _Found:
    """The object at `start` as a call, its arguments as they were written."""
    name, arguments, position = None, None, _skip(text, start)
    if not text.startswith("{", position):
        raise _Broken(f"expected a JSON object, found {text[position : position + 20]!r}", position)
    position = _skip(text, position + 1)
    while not text.startswith("}", position):
        key, value, span = _read_member(text, position)
        if key == "name":
            name = value
        elif key in ARGUMENT_KEYS:
            arguments = _arguments(value, text[span], position)
        position = _skip(text, span.stop)
        if text.startswith(",", position):
            position = _skip(text, position + 1)
        elif not text.startswith("}", position):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
    if not isinstance(name, str) or not name or not is_text(name):
        raise _Broken('the JSON object has no "name" that is a string', position)
    if arguments is None:
        raise _Broken('the JSON object has no "arguments" that are an object', position)
    return _Found(ToolCall(id=f"call_{uuid4().hex}", name=name, arguments=arguments), position + 1)


def _read_member(text: str, position: int) -> tuple[str, JsonValue, slice]:
    """Key, value and where the value stands, of the member at `position` of an object."""
    if not text.startswith('"', position):
        raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, position)
    key, position = DECODER.raw_decode(text, position)
    position = _skip(text, position)
    if not text.startswith(":", position):
        raise json.JSONDecodeError("Expecting ':' delimiter", text, position)
    begin = _skip(text, position + 1)
    value, end = DECODER.raw_decode(text, begin)
    return key, value, slice(begin, end)


def _arguments(value: JsonValue, written: str, position: int) -> str | None:
    """An object as its JSON text; written anew only where line breaks stand in its strings."""
    if not isinstance(value, dict):
        return None
    problem = object_problem(value, written)
    if problem:
        raise _Broken(f"the arguments cannot be used: {problem}", position)
    return json.dumps(value, ensure_ascii=False) if CONTROL.search(written) else written


def _skip(text: str, position: int) -> int:
    blanks = BLANKS.match(text, position)
    return blanks.end() if blanks else position


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)
