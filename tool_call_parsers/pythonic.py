"""Formats of calls as Python calls: `[get_weather(city='Zürich'), get_time()]`, bare or between markers."""

import json
import re

from core.types import JsonObject
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Block, BlockFormat, FoundCall, Item, Reading
from tool_call_parsers.markers import marker_at
from tool_call_parsers.python_literals import NotPython, PythonCall, read_calls, skip_blanks
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.schemas import object_problem
from tool_call_parsers.values import UNREAD, plain_json

BEGIN = re.compile(r"\[\s*(?P<name>[^\W\d][\w.\-]*)\s*\(")
MAX_ENDS = 8
"""How many closing markers are tried: one that stands in a string is none."""


class Pythonic(BlockFormat):
    """Llama 3.2 and 4, ToolACE, Gemma 3: a list of calls, `<|python_start|>` and `<|python_end|>` around it or not."""

    name = "pythonic"
    openers = ("[", "<|python_start|>", "<|python_end|>")
    closers = ("]",)

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The list at `start`; None for a bracket of prose: its name is no tool, or it cannot be read and text is before it."""
        marker = marker_at(text, start, self.openers[1:])
        if marker:
            return Block(start + len(marker), closed=True)
        begin = BEGIN.match(text, start)
        if begin is None:
            return None
        known = {tool.name for tool in reading.tools}
        try:
            calls, end = read_calls(text, start + 1, "]", requote=reading.final)
        except NotPython as problem:
            return self._broken(text, start, begin["name"] in known, problem)
        if known and not any(call.name in known for call in calls) and text[:start].strip():
            return None
        return Block(end, tuple(item_of(call, text[start:end]) for call in calls), closed=True)

    def _broken(self, text: str, start: int, is_tool: bool, problem: NotPython) -> Block | None:
        """A list that cannot be read: it stays text, and is told of where it can hardly be prose."""
        if not is_tool and text[:start].replace("<|python_start|>", "").strip():
            return None
        end = max(start + 1, min(problem.end, len(text)))
        return Block(end, (broken(text[start:], str(problem), problem.end >= len(text)),), content=text[start:end])


class Olmo3(BlockFormat):
    """OLMo 3: `<function_calls>` with a call on each line."""

    name = "olmo3"
    openers = ("<function_calls>",)
    closers = ("</function_calls>",)
    reasoning = reasoning_format("think")

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The calls between the markers at `start`."""
        return between(text, start, self.openers[0], self.closers[0])


class Lfm2(BlockFormat):
    """LFM2 and 2.5: a list of calls, or JSON, between markers; the model may say the list again behind it."""

    name = "lfm2"
    openers = ("<|tool_call_start|>",)
    closers = ("<|tool_call_end|>",)
    reasoning = reasoning_format("think")

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The calls between the markers at `start`, and their echo."""
        block = between(text, start, self.openers[0], self.closers[0])
        echo = text.find(self.closers[0], block.end)
        following = text.find(self.openers[0], block.end, echo if echo >= 0 else len(text))
        if echo >= 0 and following < 0:
            return block._replace(end=echo + len(self.closers[0]), closed=False)
        return block._replace(closed=following >= 0, looked=following if following >= 0 else len(text))


def between(text: str, start: int, opener: str, closer: str) -> Block:
    """The block of calls from `opener`, which stands at `start`, to the `closer` that stands in none of their strings."""
    inside = start + len(opener)
    limit = text.find(opener, inside)
    limit = len(text) if limit < 0 else limit
    end, problem = inside, ""
    for _ in range(MAX_ENDS):
        found = text.find(closer, end, limit)
        body = text[inside : found if found >= 0 else limit]
        try:
            items = read_body(body)
        except NotPython as error:
            problem = problem or str(error)
        else:
            after = limit if found < 0 else found + len(closer)
            return Block(after, items, closed=found >= 0, content="" if items else text[start:after])
        if found < 0:
            break
        end = found + len(closer)
    first = text.find(closer, inside, limit)
    after = limit if first < 0 else first + len(closer)
    return Block(after, (broken(text[start:after], problem, first < 0),), looked=limit, content=text[start:after])


def read_body(body: str) -> tuple[Item, ...]:
    """The calls of a whole text: a list of calls, calls without a list, or JSON. Raises NotPython."""
    begin = skip_blanks(body, 0)
    if body.startswith("["):
        begin = 0
    written = body[begin:].strip()
    if written.startswith("{") or re.match(r"\[\s*\{", written):
        return json_items(written)
    if not written.startswith("["):
        calls, _ = read_calls(written, 0, "")
        return tuple(item_of(call, written) for call in calls)
    calls, end = read_calls(written, 1, "]")
    if written[end:].strip():
        raise NotPython(f"expected the end of the block, found {written[end : end + 20]!r}", end)
    return tuple(item_of(call, written) for call in calls)


def json_items(written: str) -> tuple[Item, ...]:
    """Calls as JSON objects of `name` and `arguments`. Raises NotPython."""
    value = plain_json(written)
    if value is UNREAD:
        raise NotPython("neither calls nor JSON", 0)
    items: list[Item] = []
    for one in value if isinstance(value, list) else [value]:
        name = one.get("name") if isinstance(one, dict) else None
        arguments = one.get("arguments", one.get("parameters", {})) if isinstance(one, dict) else None
        if not isinstance(name, str) or not name or not isinstance(arguments, dict):
            raise NotPython('a JSON object without "name" and "arguments"', 0)
        items.append(FoundCall(name, json.dumps(arguments, ensure_ascii=False), arguments, text=written))
    return tuple(items)


def item_of(call: PythonCall, written: str) -> Item:
    """A call as it was found. Arguments without a name are refused: which parameters they are is not said."""
    arguments: JsonObject = call.arguments
    body = json.dumps(arguments, ensure_ascii=False)
    problem = object_problem(arguments, body)
    if problem:
        return MalformedCall(text=written, status=CallStatus.BAD_JSON, problem=f"the arguments cannot be used: {problem}")
    return FoundCall(call.name, body, arguments, text=written)


def broken(written: str, problem: str, cut: bool) -> MalformedCall:
    """A block that cannot be read."""
    return MalformedCall(text=written, status=CallStatus.UNCLOSED if cut else CallStatus.BAD_JSON, problem=problem)
