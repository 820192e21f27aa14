"""Calls as models usually write them: a name, then arguments, in plain JSON; read by a faster way to the same result.

Whatever is written otherwise is None here, and for json_calls to read. An object ends in one place only: where a guess of that
place leaves a whole object before it, the guess was right, and orjson can read what raw_decode would have to look for.
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property

import orjson

from core.types import JsonObject
from tool_call_parsers.markers import blank_end
from tool_call_parsers.pieces import FoundCall
from tool_call_parsers.schemas import nested_too_deeply, object_problem

JSON_BLANKS = " \t\r\n"
BLANK, NAME = r"[ \t\r\n]*", r'"(?P<name>[^"\\\x00-\x1f]+)"'
SEPARATOR = re.compile(rf"{BLANK}(?:,|(?P<end>\]))")


@dataclass(frozen=True)
class CallKeys:
    """How a format names what a call consists of."""

    name: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    id: str = ""
    number: str = ""
    """What comes first and says nothing: the number of the call."""
    needs_arguments: bool = False
    """A call without arguments is none: where nothing but its keys tells a call from other JSON."""
    name_is_key: bool = False
    """`{"f": {...}}` in place of all that."""
    python: bool = False
    """The chat template of the family writes Python literals, and the model after it."""

    @cached_property
    def head(self) -> re.Pattern[str]:
        """A call up to its arguments."""
        if self.name_is_key:
            return re.compile(rf"{BLANK}\{{{BLANK}{NAME}{BLANK}:{BLANK}(?=\{{)")
        number = rf'(?:"{self.number}"{BLANK}:{BLANK}"[^"\\\x00-\x1f]*"{BLANK},{BLANK})?' if self.number else ""
        return re.compile(
            rf'{BLANK}\{{{BLANK}{number}"(?:{"|".join(self.name)})"{BLANK}:{BLANK}{NAME}{BLANK},'
            rf'{BLANK}"(?:{"|".join(self.arguments)})"{BLANK}:{BLANK}(?=\{{)'
        )

    @cached_property
    def quoted_name(self) -> str:
        """The key of the name as it stands in JSON: where the next call is."""
        return f'"{self.name[0]}"'


PLAIN = CallKeys()


def usual_call(text: str, start: int, end: int, keys: CallKeys = PLAIN) -> FoundCall | None:
    """The call that fills a text from `start` to `end`."""
    head = keys.head.match(text, start, end)
    if head is None:
        return None
    begin = head.end()
    while end > begin and text[end - 1] in JSON_BLANKS:
        end -= 1
    found = usual_arguments(text[begin : end - 1]) if text.startswith("}", end - 1) else None
    return FoundCall(head["name"], found[0], found[1], None, text[start:end]) if found else None


def usual_call_at(text: str, start: int, keys: CallKeys) -> tuple[FoundCall, int] | None:
    """The call at `start`, and where it ends."""
    head = None if keys.id else keys.head.match(text, start)
    if head is None:
        return None
    begin = head.end()
    close = _guessed_close(text, begin, keys)
    guessed = usual_arguments(text[begin:close]) if close > begin and text.startswith("}", close) else None
    if guessed:
        return FoundCall(head["name"], guessed[0], guessed[1], None, text[start : close + 1]), close + 1
    try:
        value, end = STRICT.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None
    written, behind = text[begin:end], blank_end(text, end)
    if not text.startswith("}", behind) or object_problem(value, written):
        return None
    return FoundCall(head["name"], written, value, None, text[start : behind + 1]), behind + 1


def _guessed_close(text: str, begin: int, keys: CallKeys) -> int:
    """Where the brace may stand that closes the call whose arguments begin at `begin`."""
    if keys.name_is_key:
        return text.find("}}", begin) + 1
    following = text.find(keys.quoted_name, begin)
    return text.rfind("}", begin, text.rfind("{", begin, following) if following >= 0 else len(text))


def usual_list(text: str, start: int, keys: CallKeys) -> tuple[list[FoundCall], int] | None:
    """The calls of the list at `start`, and where it ends."""
    found: list[FoundCall] = []
    position = start + 1
    while usual := usual_call_at(text, position, keys):
        found.append(usual[0])
        separator = SEPARATOR.match(text, usual[1])
        if separator is None:
            return None
        position = separator.end()
        if separator["end"]:
            return found, position
    return None


def usual_arguments(written: str) -> tuple[str, JsonObject] | None:
    """Arguments that fill a text and are plain JSON, and their value; None where read_arguments_at has to look closer."""
    try:
        value = orjson.loads(written)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict) or nested_too_deeply(value):
        return None
    return (written.rstrip() if written[-1] in JSON_BLANKS else written), value


def refuse_constant(name: str) -> float:
    """For a JSON reader: Infinity and NaN are no JSON. Raises ValueError."""
    raise ValueError(f"{name} is not JSON")


STRICT = json.JSONDecoder(parse_constant=refuse_constant)
