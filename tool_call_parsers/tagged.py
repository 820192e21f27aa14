"""Calls as elements with an element for each argument: one grammar, and the delimiters of a family as data.

    <tool_call>                      wrapper (optional)
    <function=write_file>            call
    <parameter=path>                 argument
    a.py
    </parameter>
    </function>
    </tool_call>

Nothing is escaped in these formats, so where a value ends is read from what follows: a closing tag counts where another
argument, the end of the call, the end of the block or of the text stands behind it, and is text anywhere else. A value
whose closing tag is missing ends at the next argument, or at the end of its call.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject, ToolSpec
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Block, BlockFormat, FoundCall, Item, Reading
from tool_call_parsers.markers import marker_at
from tool_call_parsers.schemas import object_problem
from tool_call_parsers.tags import Tags
from tool_call_parsers.values import definitions_of, json_or_text, json_text, properties_of, typed

BLANKS = re.compile(r"\s*")
CDATA = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.DOTALL)
LONGEST_TAG = 64


class TaggedFormat(BlockFormat):
    """A format of this grammar: `openers` are the literal begins of its wrapper and, where calls stand bare, of its calls."""

    tags: Tags
    all_or_nothing = False
    """A block with a call that cannot be used is text as a whole."""
    markup: tuple[str, ...] = ()
    """Markers without meaning outside of calls; they must be openers too."""

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The wrapper, the bare call or the markup at `start`."""
        if marker := marker_at(text, start, self.markup):
            return Block(start + len(marker), closed=True)
        reader = _Reader(self.tags, text, reading.tools)
        pieces = reader.read(start)
        if pieces is None:
            return None
        return self.block(text, start, pieces, reading)

    def block(self, text: str, start: int, pieces: "list[Piece]", reading: Reading) -> Block:
        """Pieces of a text as one block."""
        items = tuple(piece.item(text, reading.repair) for piece in pieces if piece.name or piece.problem)
        end = pieces[-1].end
        firm = pieces[-1].firm and all(piece.status is not CallStatus.UNCLOSED for piece in pieces)
        cut = self.tags.has_wrapper and not pieces[-1].firm
        if self.all_or_nothing and (cut or any(unusable(item, reading.tools) for item in items)):
            items = tuple(refused(item, reading.tools) for item in items)
            return Block(end, items, closed=firm, looked=pieces[-1].looked, content=text[start:end])
        return Block(end, items, closed=firm, looked=pieces[-1].looked)


class Piece(NamedTuple):
    """What stands between two indices of a text: a call, whole or broken, or markup of no meaning (no name, no problem)."""

    start: int
    end: int
    name: str = ""
    arguments: JsonObject | None = None
    status: CallStatus = CallStatus.OK
    problem: str = ""
    firm: bool = False
    """Nothing that may follow changes this piece."""
    looked: int = 0
    id: str | None = None

    def item(self, text: str, repair: bool) -> Item:
        """The call, or what is wrong with it. `repair`: a call that is cut off is taken as far as it goes."""
        written = text[self.start : self.end]
        usable = self.name and self.arguments is not None
        if (
            usable
            and self.arguments is not None
            and (self.status is CallStatus.OK or (repair and self.status is CallStatus.UNCLOSED))
        ):
            return FoundCall(self.name, json_text(self.arguments), self.arguments, self.id, written)
        return MalformedCall(text=written, status=self.status, problem=self.problem)


class _Argument(NamedTuple):
    """One argument as it was written; `closed` is False where it is cut off."""

    name: str
    text: str
    string: str | None
    type: str | None
    end: int
    closed: bool
    tagged: bool
    """It has its own closing tag, or the next argument follows; else the end of the call ends it."""


class _Reader:
    """One pass over one text."""

    def __init__(self, tags: Tags, text: str, tools: Sequence[ToolSpec]) -> None:
        self.tags, self.patterns = tags, tags.patterns
        self.text, self.tools = text, tools

    def read(self, start: int) -> list[Piece] | None:
        """The pieces of the wrapper or the bare call at `start`; None where neither stands there."""
        wrapper = self.patterns.wrapper.match(self.text, start)
        if wrapper:
            return self._wrapper(wrapper)
        if not self.tags.bare_calls or not self.patterns.call.match(self.text, start):
            return None
        call = self._call(start, start)
        following = self._skip(call.end)
        close = self.patterns.wrapper_close.match(self.text, following)
        if close:
            return [call, Piece(call.end, close.end(), firm=call.firm)]
        return [call._replace(firm=False) if call.firm and self._may_become_close(following) else call]

    def _wrapper(self, opener: re.Match[str]) -> list[Piece]:
        """The pieces of a wrapper. Without gaps: what stands between two calls belongs to the second."""
        found: list[Piece] = []
        start, position = opener.start(), self._skip(opener.end())
        while call := self._next_call(start, position):
            found.append(call)
            start, position = call.end, self._skip(call.end)
        close = self.patterns.wrapper_close.match(self.text, position)
        if close:
            return [*found, Piece(start, close.end(), firm=True)]
        if not found:
            return [self._no_call(start, position)]
        following = self.patterns.boundary.search(self.text, position)
        if following and self.patterns.wrapper_close.match(self.text, following.start()):
            return [*found, self._no_call(start, position)]
        return [*found, Piece(start, start, looked=following.end() if following else len(self.text))]

    def _may_become_close(self, position: int) -> bool:
        """Whether a growing text may yet show the closing tag of a wrapper at `position`."""
        if not self.tags.has_wrapper:
            return False
        return position == len(self.text) or (self.text[position] == "<" and len(self.text) - position < LONGEST_TAG)

    def _next_call(self, start: int, position: int) -> Piece | None:
        """The call at `position`, as a piece that begins at `start`; None where none stands there."""
        if self.patterns.call.match(self.text, position):
            return self._call(start, position)
        if not self.tags.json_calls or not self.text.startswith("{", position):
            return None
        body, end = self._json_object(position)
        named = _named(body)
        return Piece(start, end, *named, firm=True) if named else None

    def _json_object(self, position: int) -> tuple[JsonObject | None, int]:
        """The JSON object at `position` and where it ends; None where none stands there that can be passed on."""
        try:
            value, end = DECODER.raw_decode(self.text, position)
        except (ValueError, RecursionError):
            return None, position
        usable = isinstance(value, dict) and not object_problem(value, self.text[position:end])
        return (value, end) if usable else (None, position)

    def _no_call(self, start: int, position: int) -> Piece:
        """Text in a wrapper where a call should stand, up to the end of the wrapper or to the next call."""
        following = self.patterns.boundary.search(self.text, position)
        found = self.text[position : position + 20]
        if following is None:
            return Piece(start, len(self.text), status=CallStatus.UNCLOSED, problem=f"expected a call, found {found!r}")
        closes = self.patterns.wrapper_close.match(self.text, following.start())
        end = following.end() if closes else following.start()
        return Piece(start, end, status=CallStatus.BAD_JSON, problem=f"expected a call, found {found!r}", firm=True)

    def _call(self, start: int, position: int) -> Piece:
        """The call whose tag stands at `position`, as a block that begins at `start`."""
        opener = self.patterns.call.match(self.text, position)
        assert opener is not None
        name = self._name(opener)
        arguments: list[_Argument] = []
        declared, seen = properties_of(self.tools, name), set[str]()
        problem, position = "" if name else "the call has no name", self._skip(opener.end())
        if self.text.startswith("{", position) and (whole := self._json_body(start, position, name)):
            return whole
        while argument := self.patterns.argument.match(self.text, position) or self._junk(position):
            if isinstance(argument, int):
                problem = problem or f"expected an argument, found {self.text[position : position + 20]!r}"
                position = argument
                continue
            seen.add(self._name(argument))
            arguments.append(self._argument(argument, declared, seen))
            position = self._skip(arguments[-1].end)
        return self._finished(start, position, name, arguments, problem)

    def _json_body(self, start: int, position: int, name: str) -> Piece | None:
        """The call whose tags hold a JSON object; None where they do not, or where the format has no such calls."""
        nameless = self.tags.json_in_calls and not name
        if not nameless and not self.tags.json_bodies:
            return None
        body, end = self._json_object(position)
        close = self.patterns.call_close.match(self.text, self._skip(end))
        if body is None or not close:
            return None
        if nameless:
            named = _named(body)
            return Piece(start, close.end(), *named, firm=True) if named else None
        problem = "" if name else "the call has no name"
        return Piece(start, close.end(), name, self._unwrapped(body, self._declared(name)), problem=problem, firm=True)

    def _junk(self, position: int) -> int | None:
        """Where text ends that is neither argument nor the end of the call; None where there is none."""
        following = self.patterns.resume.search(self.text, position)
        end = following.start() if following else len(self.text)
        return end if end > position else None

    def _finished(self, start: int, position: int, name: str, arguments: list[_Argument], problem: str) -> Piece:
        close = self.patterns.call_close.match(self.text, position)
        end = close.end() if close else position
        values = self._values(name, arguments)
        cut = close is None and not (arguments and self.patterns.wrapper_close.match(self.text, position))
        left_open = not all(one.closed for one in arguments)
        if cut or left_open:
            return Piece(
                start, end, name, values, CallStatus.UNCLOSED, "the call is not closed" if cut else "an argument is not closed"
            )
        if not problem and self.tags.once and len({one.name for one in arguments}) < len(arguments):
            problem = "an argument stands twice"
        status = CallStatus.BAD_JSON if problem else CallStatus.OK
        firm = close is not None and (self.tags.has_wrapper or all(one.tagged for one in arguments))
        return Piece(start, end, name, values, status, problem, firm=firm)

    def _argument(self, opener: re.Match[str], declared: Mapping[str, JsonValue] | None, seen: set[str]) -> _Argument:
        """The argument that an opening tag begins. `seen`: the names so far, its own among them."""
        groups = opener.groupdict() if opener.re.groups > 1 else {}
        name = self._name(opener)
        position = opener.end()
        while end := self.patterns.value_end.search(self.text, position):
            if end["name"] is None:
                break
            if self._begins(end, self._name(end), opener.end(), declared, seen):
                break
            position = end.end()
        stop = end.start() if end else len(self.text)
        closed = bool(end) and self._closes(end)
        value = self._trimmed(self.text[opener.end() : stop])
        after = end.end() if end and self.patterns.argument_close.match(self.text, stop) else stop
        tagged = end is not None and (after > stop or end["name"] is not None)
        return _Argument(name, value, groups.get("string"), groups.get("type"), after, closed, tagged)

    def _begins(
        self, opener: re.Match[str], name: str, start: int, declared: Mapping[str, JsonValue] | None, seen: set[str]
    ) -> bool:
        """Whether the tag of an argument inside of a value begins the next argument: its closing tag was left out."""
        if declared:
            return name in declared and name not in seen
        return opener.start() == start or self.text[opener.start() - 1] == "\n"

    def _closes(self, end: re.Match[str]) -> bool:
        """Whether a value that ends here is whole."""
        if self.patterns.argument_close.match(self.text, end.start()) or end["name"] is not None:
            return True
        return self.tags.call_closes_argument and bool(self.patterns.call_close.match(self.text, end.start()))

    def _name(self, tag: re.Match[str]) -> str:
        name = tag["name"].strip()
        return name.replace("&quot;", '"').replace("&amp;", "&") if self.tags.escaped_names else name

    def _trimmed(self, value: str) -> str:
        if self.tags.cdata and (verbatim := CDATA.fullmatch(value)):
            return verbatim[1]
        if self.tags.stripped:
            return value.strip()
        if self.tags.line_breaks:
            value = value.removeprefix("\n").removesuffix("\n")
        return value

    def _declared(self, call: str) -> Mapping[str, JsonValue]:
        return properties_of(self.tools, call) or {}

    def _values(self, call: str, arguments: list[_Argument]) -> JsonObject:
        declared = self._declared(call)
        root = definitions_of(self.tools, call)
        values: JsonObject = {one.name: self._value(one, declared.get(one.name), root) for one in arguments}
        return self._unwrapped(values, declared)

    def _value(self, argument: _Argument, schema: JsonValue, root: JsonObject) -> JsonValue:
        if schema is not None and argument.name:
            return typed(argument.text, schema, root)
        if argument.type is not None:
            return typed(argument.text, {"type": argument.type.split("[")[0]}, root)
        reads_json = self.tags.json_values if argument.string is None else argument.string != "true"
        return json_or_text(argument.text) if reads_json else argument.text

    def _unwrapped(self, values: JsonObject, declared: Mapping[str, JsonValue]) -> JsonObject:
        """The arguments that stand in the only one, where that is an envelope that the tool does not know."""
        if len(values) != 1 or not declared:
            return values
        key, inner = next(iter(values.items()))
        if key not in self.tags.unwraps or key in declared:
            return values
        opened = typed(inner, {"type": "object"}) if isinstance(inner, str) else inner
        return opened if isinstance(opened, dict) and opened.keys() <= declared.keys() else values

    def _skip(self, position: int) -> int:
        if position < len(self.text) and " " < self.text[position] < "\x7f":  # usual, and dearer to match than to look at
            return position
        blanks = BLANKS.match(self.text, position)
        return blanks.end() if blanks else position


def _named(body: JsonObject | None) -> tuple[str, JsonObject] | None:
    """The name and the arguments of a call that is an object of both; None where it is none."""
    name = body.get("name") if body else None
    arguments = (body or {}).get("arguments", (body or {}).get("parameters", {}))
    return (name, arguments) if isinstance(name, str) and name and isinstance(arguments, dict) else None


def unusable(item: Item, tools: Sequence[ToolSpec]) -> bool:
    """Whether a call is broken, or calls a tool that is not offered."""
    return isinstance(item, MalformedCall) or (bool(tools) and item.name not in {tool.name for tool in tools})


def refused(item: Item, tools: Sequence[ToolSpec]) -> MalformedCall:
    """A call of a block that is text as a whole."""
    if isinstance(item, MalformedCall):
        return item
    if unusable(item, tools):
        known = ", ".join(tool.name for tool in tools)
        return MalformedCall(
            text=item.text, status=CallStatus.UNKNOWN_TOOL, problem=f"no tool {item.name[:100]!r}; known: {known}"
        )
    return MalformedCall(
        text=item.text, status=CallStatus.BAD_JSON, problem="the block is not closed, or another call in it is broken"
    )


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse)
