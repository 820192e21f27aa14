"""The format of MiniMax-M3: arguments are elements named after themselves, nested like the values that they hold.

    ]<]minimax[>[<tool_call>
    ]<]minimax[>[<invoke name="order">]<]minimax[>[<items>]<]minimax[>[<item>a]<]minimax[>[</item>]<]minimax[>[</items>
    ]<]minimax[>[</invoke>
    ]<]minimax[>[</tool_call>

Every tag stands behind the same marker, so text can hold anything else. An element with elements in it is an object, or an
array where its schema says so; elements of one name are collected in a list; text beside elements is kept as `$text`.
"""

import json
import re
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Block, BlockFormat, FoundCall, Item, Reading
from tool_call_parsers.reasoning import Trim
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.schemas import MAX_DEPTH
from tool_call_parsers.values import definitions_of, typed, types_of

MARKER = "]<]minimax[>["
WRAPPER, WRAPPER_CLOSE = f"{MARKER}<tool_call>", f"{MARKER}</tool_call>"
CALL = re.compile(rf"{re.escape(MARKER)}<invoke\s+name\s*=\s*[\"']?(?P<name>[^\"'<>\n]*)[\"']?\s*>")
CALL_CLOSE = f"{MARKER}</invoke>"
TAG = re.compile(rf"{re.escape(MARKER)}<(?P<close>/?)(?P<name>[^<>]*)>")
BLANKS = re.compile(r"\s*")
MIXED_TEXT = "$text"

Element = str | list[tuple[str, "Element"]]


class _Arguments(NamedTuple):
    elements: list[tuple[str, Element]]
    end: int
    problem: str


class MiniMaxM3(BlockFormat):
    """MiniMax-M3. The turn ends with its calls: what a model says behind them is dropped."""

    name = "minimax_m3"
    openers = (WRAPPER,)
    closers = (WRAPPER_CLOSE,)
    reasoning = reasoning_format("minimax_m3")
    trim = Trim.NONE
    text_after_calls = False

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The calls of the wrapper at `start`."""
        items: list[Item] = []
        position = _skip(text, start + len(WRAPPER))
        while call := CALL.match(text, position):
            item, end = _call(text, call, reading)
            items.append(item)
            position = _skip(text, end)
        if text.startswith(WRAPPER_CLOSE, position):
            return Block(position + len(WRAPPER_CLOSE), tuple(items), closed=True)
        if items:
            return Block(position, tuple(items))
        end = text.find(MARKER, position)
        stop = len(text) if end < 0 else max(end, position + 1)
        status = CallStatus.UNCLOSED if end < 0 else CallStatus.BAD_JSON
        problem = f"expected a call, found {text[position : position + 20]!r}"
        return Block(stop, (MalformedCall(text=text[start:stop], status=status, problem=problem),))


def _call(text: str, opener: re.Match[str], reading: Reading) -> tuple[Item, int]:
    read = _read_elements(text, opener.end())
    name = opener["name"].strip()
    close = text.find(CALL_CLOSE, read.end)
    following = CALL.search(text, read.end, close if close >= 0 else len(text))
    cut = close < 0 or following is not None
    end = following.start() if following else len(text) if close < 0 else close + len(CALL_CLOSE)
    problem = read.problem or ("" if name else "the call has no name") or ("the call is not closed" if cut else "")
    if problem and not (reading.repair and name):
        status = CallStatus.UNCLOSED if cut else CallStatus.BAD_JSON
        return MalformedCall(text=text[opener.start() : end], status=status, problem=problem), end
    root = definitions_of(reading.tools, name)
    arguments = _object(read.elements, root, root)
    body = json.dumps(arguments, ensure_ascii=False)
    return FoundCall(name, body, arguments, text=text[opener.start() : end]), end


def _read_elements(text: str, position: int) -> _Arguments:
    """The elements of a call up to the first that is broken."""
    whole: list[tuple[str, Element]] = []
    open_elements: list[tuple[str, list[tuple[str, Element]], list[str]]] = []
    end_of_whole = position
    while True:
        tag = TAG.search(text, position)
        if tag is None:
            return _Arguments(whole, end_of_whole, "an element is not closed" if open_elements else "")
        between = text[position : tag.start()]
        position = tag.end()
        if not open_elements:
            if between.strip():
                return _Arguments(whole, end_of_whole, f"expected an element, found {between[:20]!r}")
            if tag["close"] or not tag["name"].strip():
                problem = "" if tag["name"] == "invoke" else f"closes {tag['name']!r}, which is not open"
                return _Arguments(whole, end_of_whole, problem)
            open_elements.append((tag["name"], [], []))
            continue
        name, children, texts = open_elements[-1]
        texts.append(between)
        if not tag["close"]:
            if len(open_elements) >= MAX_DEPTH or not tag["name"].strip():
                return _Arguments(whole, end_of_whole, f"nested more than {MAX_DEPTH} deep")
            open_elements.append((tag["name"], [], []))
        elif tag["name"] != name:
            return _Arguments(whole, end_of_whole, f"the element {name!r} is closed as {tag['name']!r}")
        else:
            open_elements.pop()
            element = (name, _content(children, "".join(texts)))
            if open_elements:
                open_elements[-1][1].append(element)
            else:
                whole.append(element)
                end_of_whole = position


def _content(children: list[tuple[str, Element]], text: str) -> Element:
    if not children:
        return text
    if text.strip():
        field = MIXED_TEXT
        while any(name == field for name, _ in children):
            field = f"${field}"
        children.append((field, text))
    return children


def _object(elements: list[tuple[str, Element]], schema: JsonValue, root: JsonObject) -> JsonObject:
    """Named elements as an object; elements of one name as a list."""
    inside = schema if isinstance(schema, dict) else {}
    properties = inside.get("properties")
    known = properties if isinstance(properties, dict) else {}
    values: dict[str, list[JsonValue]] = {}
    for name, element in elements:
        values.setdefault(name, []).append(_value(element, known.get(name, inside.get("additionalProperties")), root))
    return {name: several if len(several) > 1 else several[0] for name, several in values.items()}


def _value(element: Element, schema: JsonValue, root: JsonObject) -> JsonValue:
    container = _container(schema)
    if isinstance(element, str):
        if container and not element.strip() and "string" not in types_of(schema, root):
            return [] if container[0] == "array" else {}
        return typed(element, schema, root)
    if container and container[0] == "array":
        return [_value(child, container[1].get("items"), root) for _, child in element]
    return _object(element, container[1] if container else None, root)


def _container(schema: JsonValue) -> tuple[str, JsonObject] | None:
    """The first array or object that a schema admits."""
    if not isinstance(schema, dict):
        return None
    stated = schema.get("type")
    for kind in ("array", "object"):
        if stated == kind or (isinstance(stated, list) and kind in stated):
            return kind, schema
    if stated is None and "items" in schema:
        return "array", schema
    if stated is None and ("properties" in schema or "additionalProperties" in schema):
        return "object", schema
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        for choice in choices if isinstance(choices, list) else ():
            if found := _container(choice):
                return found
    return None


def _skip(text: str, position: int) -> int:
    blanks = BLANKS.match(text, position)
    return blanks.end() if blanks else position
