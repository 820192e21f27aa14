# ruff: noqa: RUF001 - the bars in these markers are full width
"""Formats whose calls are a name and a JSON object between special tokens: DeepSeek V3 and V3.1, Kimi K2, PLaMo 3.

    section  <|tool_calls_section_begin|>
    call     <|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"k": 1}<|tool_call_end|>
             <|tool_calls_section_end|>

Where the JSON ends the arguments end: a marker or a fence inside of a JSON string is text.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from core.types import JsonObject, ToolSpec
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Block, BlockFormat, FoundCall, Item, Reading
from tool_call_parsers.json_calls import NotACall, read_arguments_at
from tool_call_parsers.markers import first_of, marker_at
from tool_call_parsers.reasoning import Trim
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.usual_calls import usual_arguments

BLANKS = re.compile(r"\s*")
KIMI_ID = re.compile(r"(?:functions\.)?(?P<name>[^\s:]+):\d+")
KIMI_PREFIX = re.compile(r"functions?[._]?")
KIMI_SUFFIX = re.compile(r"[._:]?\d*$")


class Section(NamedTuple):
    """The markers of one format. `header` stands between the name and the arguments."""

    begins: tuple[str, ...]
    ends: tuple[str, ...]
    call: str
    header: tuple[str, ...]
    call_end: str


class SectionFormat(BlockFormat):
    """A format of this grammar."""

    section: Section
    usual: re.Pattern[str]
    """A call up to its arguments, as models usually write it; what differs is read by a slower way to the same result."""

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The calls of the section at `start`, or the one call that stands there without a section."""
        section, items = self.section, []
        begin = marker_at(text, start, section.begins)
        position = _skip(text, start + len(begin))
        while text.startswith(section.call, position):
            item, end = self._call(text, position, reading)
            items.append(item)
            position = _skip(text, end)
        end = marker_at(text, position, section.ends)
        firm = bool(end) and not any(isinstance(item, MalformedCall) for item in items)
        position += len(end)
        if not items and not end:
            return self._no_call(text, start, position)
        return Block(position, tuple(items), closed=firm)

    def _no_call(self, text: str, start: int, position: int) -> Block:
        end, marker = first_of(text, position, (*self.section.begins, *self.section.ends, self.section.call))
        cut = end < 0
        stop = len(text) if cut else end + len(marker) if marker in self.section.ends else max(end, start + 1)
        status = CallStatus.UNCLOSED if cut else CallStatus.BAD_JSON
        problem = f"expected {self.section.call}, found {text[position : position + 20]!r}"
        return Block(stop, (MalformedCall(text=text[start:stop], status=status, problem=problem),))

    def _call(self, text: str, start: int, reading: Reading) -> tuple[Item, int]:
        """The call at `start`, and where it ends."""
        if usual := self._usual_call(text, start, reading):
            return usual
        inside = start + len(self.section.call)
        limit = self._limit(text, inside)
        at, header = first_of(text, inside, self.section.header)
        if at < 0 or at > limit:
            return self._broken(text, start, inside, f"expected {self.section.header[0]}")
        name, begin = self.named(text[inside:at], text, at + len(header))
        try:
            written, value, end = self._read_arguments(text, begin, limit, reading.repair and reading.final)
        except NotACall as error:
            return self._broken(text, start, inside, str(error))
        position = self.after_arguments(text, end)
        closed = text.startswith(self.section.call_end, position)
        stop = position + len(self.section.call_end) if closed else position
        if not closed and not self._may_end(text, position):
            return self._broken(
                text, start, inside, f"expected {self.section.call_end}, found {text[position : position + 20]!r}"
            )
        call = self.found(name, value, written, text[start:stop], reading.tools)
        return call, stop

    def _usual_call(self, text: str, start: int, reading: Reading) -> tuple[Item, int] | None:
        """The call at `start`, if it is plain JSON behind a usual head, and where it ends."""
        head = self.usual.match(text, start)
        close = text.find(self.section.call_end, head.end()) if head else -1
        if not head or close < 0:
            return None
        # an object ends in one place only: what is one up to the last brace before the marker ends there
        end = text.rfind("}", head.end(), close) + 1
        found = usual_arguments(text[head.end() : end]) if end else None
        stop = self.after_arguments(text, end)
        if not found or stop != close:
            return None
        stop += len(self.section.call_end)
        return self.found(head["name"], found[1], found[0], text[start:stop], reading.tools), stop

    def _may_end(self, text: str, position: int) -> bool:
        """Whether a call with whole arguments may end without its closing marker."""
        return position == len(text) or bool(marker_at(text, position, (self.section.call, *self.section.ends)))

    def _limit(self, text: str, position: int) -> int:
        """Where the next call begins, or the text ends."""
        following = text.find(self.section.call, position)
        return following if following >= 0 else len(text)

    def _read_arguments(self, text: str, begin: int, limit: int, repair: bool) -> tuple[str, JsonObject, int]:
        """The arguments at `begin`, mended on request. Raises NotACall."""
        try:
            return read_arguments_at(text, begin)
        except NotACall:
            if not repair:
                raise
        stop = self._stop(text, begin, limit)
        written, value, _ = read_arguments_at(text[begin:stop].rstrip(), 0, repair=True)
        return written, value, stop

    def _stop(self, text: str, position: int, limit: int) -> int:
        """Where arguments that are broken can end at most."""
        end = first_of(text[position:limit], 0, (self.section.call_end, *self.section.ends))[0]
        return limit if end < 0 else position + end

    def _broken(self, text: str, start: int, inside: int, problem: str) -> tuple[Item, int]:
        """The broken call at `start`, up to its closing marker or to the next call."""
        end, marker = first_of(text, inside, (self.section.call_end, self.section.call, *self.section.ends))
        stop = len(text) if end < 0 else end + len(marker) if marker == self.section.call_end else end
        status = CallStatus.BAD_JSON if marker == self.section.call_end else CallStatus.UNCLOSED
        return MalformedCall(text=text[start:stop], status=status, problem=problem), stop

    @abstractmethod
    def named(self, header: str, text: str, position: int) -> tuple[str, int]:
        """The name that a header gives, and where the arguments begin that follow it."""

    def after_arguments(self, text: str, position: int) -> int:
        """Where the closing marker should stand behind the arguments that end at `position`."""
        return _skip(text, position)

    def found(self, name: str, value: JsonObject, written: str, block: str, tools: Sequence[ToolSpec]) -> Item:
        """The call of that name."""
        if not name:
            return MalformedCall(text=block, status=CallStatus.BAD_JSON, problem="the call has no name")
        return FoundCall(name, written, value, text=block)


class DeepSeekV3(SectionFormat):
    """DeepSeek-V3, R1-0528 (`function`, the name, a fence around the arguments) and V3.1 (the name, the arguments)."""

    name = "deepseek_v3"
    section = Section(
        ("<｜tool▁calls▁begin｜>",),
        ("<｜tool▁calls▁end｜>",),
        "<｜tool▁call▁begin｜>",
        ("<｜tool▁sep｜>",),
        "<｜tool▁call▁end｜>",
    )
    usual = re.compile(
        rf"{section.call}(?:function{section.header[0]})?(?P<name>[^\s<`{{]+)"
        rf"(?:\s*```(?:json)?|{section.header[0]})\s*(?=\{{)"
    )
    openers = (*section.begins, section.call)
    closers = (*section.ends, section.call_end)
    reasoning = reasoning_format("think")

    def named(self, header: str, text: str, position: int) -> tuple[str, int]:
        """The header itself, or the line that follows where the header only says `function`."""
        begin = _skip(text, position)
        if text.startswith("{", begin):
            return header.strip(), begin
        end = text.find("\n", begin)
        end = len(text) if end < 0 else end
        brace = text.find("{", begin, end)
        end = brace if brace >= 0 else end
        return text[begin:end].strip(), _after_fence(text, _skip(text, end))

    def after_arguments(self, text: str, position: int) -> int:
        """Behind the fence, where there is one."""
        position = _skip(text, position)
        return _skip(text, position + 3) if text.startswith("```", position) else position


class DeepSeekV31(DeepSeekV3):
    """The same: which of the two it is, each call shows."""

    name = "deepseek_v31"


class KimiK2(SectionFormat):
    """Kimi K2 and K2.5. The ids are the model's own and are kept: its template prints them again."""

    name = "kimi_k2"
    section = Section(
        ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>"),
        ("<|tool_calls_section_end|>", "<|tool_call_section_end|>"),
        "<|tool_call_begin|>",
        ("<|tool_call_argument_begin|>",),
        "<|tool_call_end|>",
    )
    usual = re.compile(r"<\|tool_call_begin\|>\s*(?P<name>[^\s<]+)\s*<\|tool_call_argument_begin\|>\s*(?=\{)")
    openers = (*section.begins, section.call)
    closers = section.ends
    reasoning = reasoning_format("kimi_k2")
    trim = Trim.NONE
    text_after_calls = False

    def named(self, header: str, text: str, position: int) -> tuple[str, int]:
        """The id: it holds the name."""
        return header.strip(), _skip(text, position)

    def found(self, name: str, value: JsonObject, written: str, block: str, tools: Sequence[ToolSpec]) -> Item:
        """The call of that id. An id that holds no name is read against the tools, or told by the arguments."""
        well_formed = KIMI_ID.fullmatch(name)
        called = well_formed["name"] if well_formed else ""
        if tools and called not in {tool.name for tool in tools}:
            called = _recovered(name, value, tools) or called
        if not called:
            problem = f"{name[:60]!r} is no id of the form functions.NAME:NUMBER"
            return MalformedCall(text=block, status=CallStatus.BAD_JSON, problem=problem)
        return FoundCall(called, written, value, id=name if well_formed else None, text=block)


def _recovered(header: str, value: JsonObject, tools: Sequence[ToolSpec]) -> str:
    """The tool that a misspelled id means: by its name, else the only one that takes these arguments; "" for none."""
    names = {tool.name for tool in tools}
    for base in (header, KIMI_PREFIX.sub("", header, count=1) if KIMI_PREFIX.match(header) else header):
        for candidate in (base, KIMI_SUFFIX.sub("", base)):
            if candidate in names:
                return candidate
    if not value:
        return ""
    fitting = [tool.name for tool in tools if _takes(tool, value)]
    return fitting[0] if len(fitting) == 1 else ""


def _takes(tool: ToolSpec, value: JsonObject) -> bool:
    properties, required = tool.parameters.get("properties"), tool.parameters.get("required")
    known = properties if isinstance(properties, dict) else {}
    needed = required if isinstance(required, list) else []
    return value.keys() <= known.keys() and all(one in value for one in needed if isinstance(one, str))


class Plamo3(SectionFormat):
    """PLaMo 3. Its markers are several tokens long: one that the end of the text cuts off is no text."""

    name = "plamo3"
    section = Section(
        ("<|plamo:begin_tool_requests:plamo|>",),
        ("<|plamo:end_tool_requests:plamo|>",),
        "<|plamo:begin_tool_request:plamo|>",
        ("<|plamo:begin_tool_arguments:plamo|>",),
        "<|plamo:end_tool_request:plamo|>",
    )
    usual = re.compile(
        r"<\|plamo:begin_tool_request:plamo\|><\|plamo:begin_tool_name:plamo\|>(?P<name>[^\s<]+)<\|plamo:end_tool_name:plamo\|>"
        r"<\|plamo:begin_tool_arguments:plamo\|>(?:<\|plamo:constrain\|>json<\|plamo:msg\|>)?(?=\{)"
    )
    openers = ("<|plamo:begin_", "<|plamo:tag|>", "<|plamo:end_")
    closers = ("<|plamo:end_tool_requests:plamo|>",)
    reasoning = replace(reasoning_format("plamo3"), trim=Trim.NONE)
    trim = Trim.NONE

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The section at `start`; the end of the turn, and a marker that is cut off, are markup."""
        if marker_at(text, start, (*self.section.begins, self.section.call)):
            return super().read(text, start, reading)
        tail = text[start:]
        known = (
            *self.section.begins,
            *self.section.ends,
            self.section.call,
            self.section.call_end,
            *self.section.header,
            "<|plamo:tag|>",
        )
        if any(marker.startswith(tail) for marker in known):
            return Block(len(text))
        return Block(start + len("<|plamo:tag|>"), closed=True) if tail.startswith("<|plamo:tag|>") else None

    def named(self, header: str, text: str, position: int) -> tuple[str, int]:
        """What stands between the markers of the name; the arguments begin behind what says that they are JSON."""
        begin, end = "<|plamo:begin_tool_name:plamo|>", "<|plamo:end_tool_name:plamo|>"
        name = header.partition(begin)[2].partition(end)[0] if begin in header and end in header else ""
        constrained = "<|plamo:constrain|>json<|plamo:msg|>"
        position = _skip(text, position)
        return name.strip(), _skip(text, position + len(constrained)) if text.startswith(constrained, position) else position

    def after_arguments(self, text: str, position: int) -> int:
        """Behind the marker that closes the arguments."""
        position = _skip(text, position)
        marker = "<|plamo:end_tool_arguments:plamo|>"
        return _skip(text, position + len(marker)) if text.startswith(marker, position) else position

    def _may_end(self, text: str, position: int) -> bool:
        tail = text[position:]
        cut = any(
            marker.startswith(tail) for marker in (self.section.call_end, "<|plamo:end_tool_arguments:plamo|>", "<|plamo:tag|>")
        )
        return cut or text.startswith("<|plamo:tag|>", position) or super()._may_end(text, position)


def _skip(text: str, position: int) -> int:
    if position < len(text) and " " < text[position] < "\x7f":  # usual, and dearer to match than to look at
        return position
    blanks = BLANKS.match(text, position)
    return blanks.end() if blanks else position


def _after_fence(text: str, position: int) -> int:
    """Behind the line that opens a fence, where one stands at `position`."""
    if not text.startswith("```", position):
        return position
    end = text.find("\n", position)
    brace = text.find("{", position)
    stop = len(text) if end < 0 else end
    return brace if 0 <= brace < stop else _skip(text, stop)
