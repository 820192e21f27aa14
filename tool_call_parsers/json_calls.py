"""Calls that are JSON in the middle of a text: `{"name": "f", "arguments": {...}}`, alone or in a list.

Where the JSON ends the call ends: a marker inside of a JSON string is text. Arguments are handed on as they were written.
Accepted although no JSON: line breaks inside of strings. Accepted although no object: arguments that are a string with the
JSON text of one. With `repair`, what is cut off is closed, and Python's quotes, constants and commas are read as JSON's.
"""

import json
import re
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.markers import blank_end
from tool_call_parsers.pieces import FoundCall, Item
from tool_call_parsers.python_literals import NotPython, read_literal
from tool_call_parsers.schemas import MAX_DEPTH, is_text, object_problem
from tool_call_parsers.usual_calls import PLAIN, STRICT, CallKeys, refuse_constant, usual_call_at, usual_list

POSITION_COST = 64
"""An error of the JSON reader counts the line breaks before it: so many characters cost as much as one that is read."""
MAX_BAD = 32
"""Bad elements of one list that are read on behind."""
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+(?P<close>"?)|[\[\]{}]', re.DOTALL)
CLOSING = {"{": "}", "[": "]"}


class NotACall(Exception):
    """What stands there is no call; `end` is how far it was read, `cut` whether the text ended too early."""

    def __init__(self, problem: str, end: int, *, cut: bool = False) -> None:
        self.end, self.cut = end, cut
        super().__init__(problem)


class Calls(NamedTuple):
    """The calls of an object or a list. `sure` is the end of what was read without doubt, `end` how far it reaches."""

    items: tuple[Item, ...]
    end: int
    sure: int
    whole: bool = True
    """False where a list is not closed, or where it is not clear what a bad element of it swallowed."""


def read_calls(text: str, start: int, keys: CallKeys = PLAIN, *, repair: bool = False) -> Calls:
    """The calls of the object or list at `start`. Raises NotACall where nothing can be used.

    A list may hold bad calls beside good ones. `repair` needs a text that ends where the block does.
    """
    if text.startswith("[", start):
        if usual := usual_list(text, start, keys):
            return Calls(tuple(usual[0]), usual[1], usual[1])
        return _read_list(text, start, keys, repair)
    found, end = read_call(text, start, keys, repair=repair)
    return Calls((found,), end, end)


def read_call(text: str, start: int, keys: CallKeys = PLAIN, *, repair: bool = False) -> tuple[FoundCall, int]:
    """The object at `start` as a call, and where it ends. Raises NotACall."""
    if not text.startswith("{", start):
        raise NotACall(f"expected a JSON object, found {shown(text, start)}", start, cut=start >= len(text))
    if usual := usual_call_at(text, start, keys):
        return usual
    try:
        members, end = _members(text, start)
    except NotACall as broken:
        mended = _mended(text, start, keys.python, repair)
        if not isinstance(mended, dict):
            raise broken from None
        members, end = _rewritten(mended), len(text) if repair else read_literal(text, start)[1]
    return _call(members, keys, text[start:end], end), end


def read_arguments_at(text: str, start: int, *, repair: bool = False) -> tuple[str, JsonObject, int]:
    """The object at `start` as arguments: its JSON text, its value, and where it ends. Raises NotACall."""
    try:
        value, end, strict = _scan(text, start)
        written = text[start:end]
    except NotACall:
        value, end, strict = _mended(text, start, False, repair), len(text), True
        if not isinstance(value, dict):
            raise
        written = json.dumps(value, ensure_ascii=False)
    arguments, value = _arguments(Member(value, written, strict), end)
    return arguments, value, end


def read_json(text: str, start: int) -> tuple[JsonValue, int]:
    """The JSON value at `start`, line breaks inside of strings accepted, and where it ends. Raises NotACall."""
    value, end, _ = _scan(text, start)
    return value, end


def _scan(text: str, start: int) -> tuple[JsonValue, int, bool]:
    """As read_json, and whether the text is JSON as it stands."""
    try:
        return *STRICT.raw_decode(text, start), True
    except (ValueError, RecursionError):
        pass
    try:
        return *LENIENT.raw_decode(text, start), False
    except json.JSONDecodeError as error:
        unterminated = error.msg.startswith("Unterminated")
        end = len(text) if unterminated else error.pos
        problem = f"not JSON: {error.msg} at character {error.pos - start}"
        cut = unterminated or blank_end(text, error.pos) == len(text)
        raise NotACall(problem, end + start // POSITION_COST, cut=cut) from None
    except RecursionError:
        raise NotACall("not JSON: nested too deeply", len(text)) from None
    except ValueError as error:  # a number of more digits than Python reads, Infinity, NaN
        raise NotACall(f"not JSON: {error}", len(text)) from None


def shown(text: str, position: int) -> str:
    """What stands there, for a message."""
    return repr(text[position : position + 20]) if position < len(text) else "the end"


class Member(NamedTuple):
    """A value of an object, as it was written, and whether that is JSON as it stands."""

    value: JsonValue
    written: str
    strict: bool = True


Members = dict[str, Member]


def _members(text: str, start: int) -> tuple[Members, int]:
    """The members of the object at `start`, and where it ends."""
    members: Members = {}
    position = blank_end(text, start + 1)
    while not text.startswith("}", position):
        if not text.startswith('"', position):
            raise NotACall(f"not JSON: expected a key, found {shown(text, position)}", position, cut=position >= len(text))
        key, position = read_json(text, position)
        position = _skip_over(text, position, ":")
        value, end, strict = _scan(text, position)
        members[str(key)] = Member(value, text[position:end], strict)
        position = blank_end(text, end)
        if text.startswith(",", position):
            position = blank_end(text, position + 1)
        elif not text.startswith("}", position):
            cut = position >= len(text)
            raise NotACall(f"not JSON: expected ',' or '}}', found {shown(text, position)}", position, cut=cut)
    return members, position + 1


def _skip_over(text: str, position: int, token: str) -> int:
    position = blank_end(text, position)
    if not text.startswith(token, position):
        cut = position >= len(text)
        raise NotACall(f"not JSON: expected {token!r}, found {shown(text, position)}", position, cut=cut)
    return blank_end(text, position + len(token))


def _call(members: Members, keys: CallKeys, written: str, end: int) -> FoundCall:
    """The call that an object's members are."""
    if keys.name_is_key:
        if len(members) != 1:
            raise NotACall("expected one key, the name of a tool, with its arguments", end)
        ((name, given),) = members.items()
    else:
        name = next((members[key].value for key in keys.name if key in members), None)
        given = next((members[key] for key in keys.arguments if key in members), None)
        if given is None:
            given = Member(None, "null") if keys.needs_arguments else Member({}, "{}")
    if not isinstance(name, str) or not name or not is_text(name):
        raise NotACall(f'the JSON object has no "{keys.name[0]}" that is a string', end)
    if isinstance(given.value, str):
        given = _unpacked(given.value)
    if not isinstance(given.value, dict):
        raise NotACall(f'the JSON object has no "{keys.arguments[0]}" that are an object', end)
    arguments, value = _arguments(given, end)
    own = members[keys.id].value if keys.id in members else None
    return FoundCall(name, arguments, value, own if isinstance(own, str) and own else None, written)


def _unpacked(value: str) -> Member:
    """Arguments that were encoded twice."""
    text = value.strip()
    try:
        inner, end, strict = _scan(text, 0)
    except NotACall:
        return Member(None, "")
    return Member(inner, text, strict) if end == len(text) else Member(None, "")


def _arguments(given: Member, end: int) -> tuple[str, JsonObject]:
    """An object's JSON text, written anew only where it is none, and its value."""
    if not isinstance(given.value, dict):
        raise NotACall("the arguments are no object", end)
    problem = object_problem(given.value, given.written)
    if problem:
        raise NotACall(f"the arguments cannot be used: {problem}", end)
    return (given.written if given.strict else json.dumps(given.value, ensure_ascii=False)), given.value


def _read_list(text: str, start: int, keys: CallKeys, repair: bool) -> Calls:
    """The calls of the list at `start`; a bad element is reported and the list read on where the next object begins."""
    items: list[Item] = []
    position, sure, clear, bad = blank_end(text, start + 1), start + 1, True, 0
    while position < len(text) and not text.startswith("]", position):
        if bad > MAX_BAD:
            break
        position = _read_element(text, position, keys, repair, items)
        if isinstance(items[-1], FoundCall):
            sure = position
        else:
            bad += 1
        clear = clear and position < len(text)
        position = blank_end(text, position)
        if text.startswith(",", position):
            position = blank_end(text, position + 1)
        elif not text.startswith(("]", "{"), position):
            break
    whole = text.startswith("]", position)
    if not any(isinstance(item, FoundCall) for item in items):
        _refuse_list(items, position, whole)
    return Calls(tuple(items), position + 1 if whole else len(text), sure, whole and clear)


def _refuse_list(items: list[Item], end: int, whole: bool) -> None:
    """Say why a list holds no calls."""
    first = items[0] if items else None
    if isinstance(first, MalformedCall):
        raise NotACall(first.problem, end, cut=first.status is CallStatus.UNCLOSED)
    raise NotACall("the list holds no calls" if whole else "the list is not closed", end, cut=not whole)


def _read_element(text: str, begun: int, keys: CallKeys, repair: bool, items: list[Item]) -> int:
    """Add the element of a list that stands at `begun`; where the list goes on."""
    try:
        if not text.startswith("{", begun):
            end = _value_end(text, begun)
            raise NotACall(f"expected a JSON object, found {shown(text, begun)}", end)
        item, end = read_call(text, begun, keys)
    except NotACall as broken:
        mended = _mended_call(text, begun, keys) if repair and broken.cut else None
        if mended is not None:
            item, end = mended, len(text)
        else:
            status = CallStatus.UNCLOSED if broken.cut else CallStatus.BAD_JSON
            end = _next_element(text, begun, min(broken.end, len(text)), NEXT_OBJECT if keys.name_is_key else NEXT_CALL)
            item = MalformedCall(text=text[begun:end], status=status, problem=str(broken))
    items.append(item)
    return end


def _value_end(text: str, position: int) -> int:
    try:
        return read_json(text, position)[1]
    except NotACall:
        return position


def _next_element(text: str, begun: int, looked: int, pattern: re.Pattern[str]) -> int:
    """Where a list goes on after a bad element: behind it where it was whole, else at the next object, or at the end."""
    if looked > begun and text.startswith((",", "]"), blank_end(text, looked)):
        return looked
    following = pattern.search(text, begun + 1)
    return following.start("object") if following else len(text)


def _mended_call(text: str, start: int, keys: CallKeys) -> FoundCall | None:
    """The call that repair makes of what is cut off; None where that is no call either."""
    mended = _mended(text, start, keys.python, True)
    try:
        return _call(_rewritten(mended), keys, text[start:], len(text)) if isinstance(mended, dict) else None
    except NotACall:
        return None


def _mended(text: str, start: int, python: bool, repair: bool) -> JsonValue:
    """The value at `start` read as a Python literal; with `repair` also closed where it is cut off. None where it is none."""
    if not (python or repair):
        return None
    candidates = [text[start:], *_closed(text[start:])] if repair else [text[start:]]
    for candidate in candidates:
        try:
            value, end = read_literal(candidate)
        except NotPython:
            continue
        if python or end == len(candidate.rstrip()):
            return value
    return None


def _closed(text: str) -> list[str]:
    """A text with what it leaves open closed, in the ways that may make it JSON."""
    opened: list[str] = []
    quote = ""
    for token in BRACKETS.finditer(text):
        quote = "" if token["close"] != "" else '"'
        if token[0] in CLOSING:
            opened.append(CLOSING[token[0]])
        elif token[0] in "]}" and (not opened or opened.pop() != token[0]):
            return []
        if len(opened) > MAX_DEPTH:
            return []
    rest, close = text if quote else text.rstrip(), "".join(reversed(opened))
    return [f"{rest}{quote}{close}", f"{rest.rstrip(',: ')}{quote}{close}"]


def _rewritten(mended: JsonObject) -> Members:
    return {key: Member(value, json.dumps(value, ensure_ascii=False)) for key, value in mended.items()}


NEXT_CALL = re.compile(r',\s*(?P<object>\{\s*"(?:name|tool_name|tool_call_id|id|type|arguments|parameters)"\s*:)')
NEXT_OBJECT = re.compile(r',\s*(?P<object>\{\s*"[^"]*"\s*:\s*\{)')
LENIENT = json.JSONDecoder(strict=False, parse_constant=refuse_constant)
