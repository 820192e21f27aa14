"""The formats of Gemma 4 and FunctionGemma: `call:f{city:<|"|>Zürich<|"|>,n:42,nested:{ok:true},list:[1,2]}`.

Keys are bare, texts stand between two delimiters that are tokens, everything else is bare: its type comes from the schema.
"""

import json
import re
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Block, BlockFormat, FoundCall, Reading
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.schemas import MAX_DEPTH
from tool_call_parsers.values import definitions_of, json_or_text, properties_of, typed, types_of

BLANKS = re.compile(r"[\s,]*")
NAME = re.compile(r"\s*(?:call)?\s*:?\s*(?P<name>[^{(<]*)")
PLAIN_NAME = re.compile(r"[\w.\-]+")
BARE = re.compile(r"[^,{}\[\]<]*(?:<(?!\|)[^,{}\[\]<]*)*")


class Bare(str):
    """A scalar that was written without delimiters."""

    __slots__ = ()


class _Cut(Exception):
    """The text, or the block, ended within a value; `value` is what was read of it."""

    def __init__(self, value: JsonValue, position: int) -> None:
        self.value, self.position = value, position
        super().__init__()


class _Read(NamedTuple):
    arguments: JsonObject
    end: int
    problem: str


class Gemma4(BlockFormat):
    """Gemma 4."""

    name = "gemma4"
    openers = ("<|tool_call>", "<tool_call|>", "<channel|>")
    closers = ("<tool_call|>",)
    delimiter = '<|"|>'
    reasoning = reasoning_format("gemma4")
    json_text = False
    """A text of no declared type is read as JSON where it is JSON."""

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The call at `start`; a closing marker on its own is no text."""
        opener = next(one for one in self.openers if text.startswith(one, start))
        if opener != self.openers[0]:
            return Block(start + len(opener), closed=True)
        header = NAME.match(text, start + len(opener))
        assert header is not None
        name = header["name"].strip()
        read = self._arguments(text, header.end())
        end = self._end(text, read.end)
        stop = end if end >= 0 else self._limit(text, read.end)
        after = stop + len(self.closers[0]) if end >= 0 else stop
        problem = read.problem or self._name_problem(name, reading)
        written = text[start:after]
        status = CallStatus.UNCLOSED if end < 0 else CallStatus.BAD_JSON
        usable = not problem or (reading.repair and name)
        closed = end >= 0 and not problem
        if (end < 0 and not reading.repair) or not usable:
            return Block(
                after, (MalformedCall(text=written, status=status, problem=problem or "the call is not closed"),), closed
            )
        arguments = self._retyped(read.arguments, name, reading)
        return Block(after, (FoundCall(name, json.dumps(arguments, ensure_ascii=False), arguments, text=written),), closed)

    def _end(self, text: str, position: int) -> int:
        """Where the block is closed; -1 where it is not before the next one begins."""
        end = text.find(self.closers[0], position)
        following = text.find(self.openers[0], position, end if end >= 0 else len(text))
        return end if following < 0 else -1

    def _limit(self, text: str, position: int) -> int:
        following = text.find(self.openers[0], position)
        return following if following >= 0 else len(text)

    def _name_problem(self, name: str, reading: Reading) -> str:
        if not name:
            return "the call has no name"
        return "" if reading.tools or PLAIN_NAME.fullmatch(name) else f"{name[:40]!r} is no name of a tool"

    def _arguments(self, text: str, position: int) -> _Read:
        """The arguments at `position`, none where no bracket opens."""
        if text[position : position + 1] not in ("{", "("):
            return _Read({}, position, "")
        close = "}" if text[position] == "{" else ")"
        inner = BLANKS.match(text, position + 1)
        if close == ")" and inner and text.startswith("{", inner.end()):
            position, close = inner.end(), "}"
        try:
            value, end = self._object(text, position + 1, close, 1)
        except _Cut as cut:
            return _Read(cut.value if isinstance(cut.value, dict) else {}, cut.position, "the arguments are not closed")
        return _Read(value, end, "")

    def _object(self, text: str, position: int, close: str, depth: int) -> tuple[JsonObject, int]:
        values: JsonObject = {}
        while True:
            position = self._skip(text, position)
            if text.startswith(close, position):
                return values, position + 1
            colon = text.find(":", position)
            key = text[position:colon].strip() if colon >= 0 else ""
            key = key.removeprefix(self.delimiter).removesuffix(self.delimiter)
            if not key or any(one in key for one in "{}[]<\n"):
                raise _Cut(values, position)
            try:
                values[key], position = self._value(text, colon + 1, close, depth)
            except _Cut as cut:
                if cut.value is not None:
                    values[key] = cut.value
                raise _Cut(values, cut.position) from cut

    def _array(self, text: str, position: int, depth: int) -> tuple[list[JsonValue], int]:
        items: list[JsonValue] = []
        while True:
            position = self._skip(text, position)
            if text.startswith("]", position):
                return items, position + 1
            try:
                item, position = self._value(text, position, "]", depth)
            except _Cut as cut:
                raise _Cut([*items, cut.value] if cut.value is not None else items, cut.position) from cut
            items.append(item)

    def _value(self, text: str, position: int, close: str, depth: int) -> tuple[JsonValue, int]:
        while text[position : position + 1].isspace():
            position += 1
        if depth > MAX_DEPTH:
            raise _Cut(None, position)
        if text.startswith(self.delimiter, position):
            begin = position + len(self.delimiter)
            end = text.find(self.delimiter, begin)
            if end < 0:
                stop = text.find(self.closers[0], begin)
                stop = len(text) if stop < 0 else stop
                raise _Cut(text[begin:stop], stop)
            return text[begin:end], end + len(self.delimiter)
        if text.startswith("{", position):
            return self._object(text, position + 1, "}", depth + 1)
        if text.startswith("[", position):
            return self._array(text, position + 1, depth + 1)
        bare = BARE.match(text, position)
        end = bare.end() if bare else position
        if close == ")":
            end = min(end, stop) if (stop := text.find(")", position, end)) >= 0 else end
        word = text[position:end].strip()
        if end >= len(text) or text.startswith("<", end) or (not word and not text.startswith((",", close), end)):
            raise _Cut(Bare(word) if word and not text.startswith(("{", "["), end) else None, end)
        return Bare(word), end

    def _retyped(self, arguments: JsonObject, name: str, reading: Reading) -> JsonObject:
        declared = properties_of(reading.tools, name) or {}
        root = definitions_of(reading.tools, name)
        return {key: self._typed(value, declared.get(key), root) for key, value in arguments.items()}

    def _typed(self, value: JsonValue, schema: JsonValue, root: JsonObject) -> JsonValue:
        inside = schema if isinstance(schema, dict) else {}
        if isinstance(value, dict):
            properties = inside.get("properties")
            known = properties if isinstance(properties, dict) else {}
            return {key: self._typed(one, known.get(key), root) for key, one in value.items()}
        if isinstance(value, list):
            return [self._typed(one, inside.get("items"), root) for one in value]
        if not isinstance(value, str):
            return value
        types = types_of(schema, root)
        if not types:
            return json_or_text(value) if self.json_text else str(value)
        return str(value) if "string" in types and not isinstance(value, Bare) else typed(str(value), schema, root)

    def _skip(self, text: str, position: int) -> int:
        blanks = BLANKS.match(text, position)
        return blanks.end() if blanks else position


class FunctionGemma(Gemma4):
    """FunctionGemma: other markers; its template writes every value as text."""

    name = "functiongemma"
    openers = ("<start_function_call>", "<end_function_call>")
    closers = ("<end_function_call>",)
    delimiter = "<escape>"
    reasoning = None
    json_text = True
