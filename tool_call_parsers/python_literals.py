"""Python calls and literals as models write them: a reader of its own, because `ast` neither bounds depth nor forgives.

Accepted beyond Python: `null`, `true` and `false`, raw line breaks inside strings, numbers with leading zeros, arguments
named like keywords (`from=1`), names with dashes, and a string that holds its own quote where only one reading of the
whole fits (`cmd='sed -n '1,9p' f'`). Time is linear, apart from such strings, whose readings are counted.
"""

import re
from typing import NamedTuple

from pydantic import JsonValue

from tool_call_parsers.schemas import MAX_DEPTH

NAME = re.compile(r"[^\W\d][\w.\-]*")
KEYWORD = re.compile(r"\s*([^\W\d]\w*)\s*=(?!=)\s*")
NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?)")
BLANKS = re.compile(r"(?:\s|\\\n|#[^\n'\"]*(?:\n|$))*+")
STRING_OPEN = re.compile(r"([rRfFuU]{0,2})('''|\"\"\"|'|\")")
STRING_PART = {quote: re.compile(rf"[^\\{quote[0]}]++") for quote in ("'", '"', "'''", '"""')}
ESCAPE = re.compile(r"\\(?:(\n)|([\\'\"abfnrtv])|([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
SIMPLE_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
CONTAINERS = {"[": "]", "(": ")", "{": "}"}
FOLLOWERS = frozenset(",)]}:")
"""What may stand behind a string: a quote before anything else is no closing one."""
MAX_READINGS = 24
MAX_DIGITS = 4000


class NotPython(Exception):
    """Text that is no literal or call; `end` is how far it was read."""

    def __init__(self, problem: str, end: int) -> None:
        self.end = end
        super().__init__(problem)


class PythonCall(NamedTuple):
    """`name(key=value, ...)`; `positional` counts the arguments that have no name and are not kept."""

    name: str
    arguments: dict[str, JsonValue]
    positional: int
    end: int


def read_literal(text: str, start: int = 0) -> tuple[JsonValue, int]:
    """The literal at `start` as a JSON value, and where it ends. Tuples and sets are lists. Raises NotPython."""
    return _Reader(text, {}).value(start, 0)


def whole_literal(text: str) -> JsonValue:
    """The one literal that a text is. Raises NotPython."""
    value, end = read_literal(text, skip_blanks(text, 0))
    if skip_blanks(text, end) < len(text):
        raise NotPython("text after the literal", end)
    return value


def read_calls(text: str, start: int, close: str, *, requote: bool = True) -> tuple[list[PythonCall], int]:
    """The calls from `start` up to `close`, and where it ends; commas and line breaks stand between them.

    `close` is a bracket, or "" for the end of the text. `requote`: a string that holds its own quote is read where one
    reading of the text fits; more text may change which. Raises NotPython.
    """
    try:
        return _Reader(text, {}).calls(start, close)
    except _Ambiguous as found:
        if not requote:
            raise
        return _only_reading(text, start, close, found)


def skip_blanks(text: str, position: int) -> int:
    """The first index from `position` on that is neither white space nor comment."""
    blanks = BLANKS.match(text, position)
    return blanks.end() if blanks else position


class _Ambiguous(NotPython):
    """A string whose first closing quote cannot close it: `opened` is where it begins, `closers` where it may end."""

    def __init__(self, opened: int, closers: list[int]) -> None:
        self.opened, self.closers = opened, closers
        super().__init__("a quote inside a string is not escaped", opened)


def _only_reading(text: str, start: int, close: str, found: _Ambiguous) -> tuple[list[PythonCall], int]:
    """The calls under the one reading that fits, of the quotes that may close a broken string."""
    fitting = []
    for closer in found.closers[:MAX_READINGS]:
        try:
            fitting.append(_Reader(text, {found.opened: closer}).calls(start, close))
        except NotPython:
            continue
    if len(fitting) != 1 or len(found.closers) > MAX_READINGS:
        raise found
    return fitting[0]


class _Reader:
    """One pass over one text. `closers`: where the strings end that hold their own quote, by where they begin."""

    def __init__(self, text: str, closers: dict[int, int]) -> None:
        self.text = text
        self.forced = closers

    def calls(self, position: int, close: str) -> tuple[list[PythonCall], int]:
        found: list[PythonCall] = []
        position = self._skip(position)
        while not (self._at(position, close) if close else position >= len(self.text)):
            call = self.call(position)
            found.append(call)
            position = self._skip(call.end)
            if self._at(position, ","):
                position = self._skip(position + 1)
            elif close and not self._at(position, close):
                raise NotPython(f"expected ',' or '{close}', found {self._shown(position)}", position)
        return found, position + len(close)

    def call(self, position: int) -> PythonCall:
        name = NAME.match(self.text, position)
        if not name or not self._at(self._skip(name.end()), "("):
            raise NotPython(f"expected a call, found {self._shown(position)}", position)
        arguments: dict[str, JsonValue] = {}
        positional, position = 0, self._skip(self._skip(name.end()) + 1)
        while not self._at(position, ")"):
            keyword = KEYWORD.match(self.text, position)
            value, position = self.value(keyword.end() if keyword else position, 0)
            if keyword is None:
                positional += 1
            elif keyword[1] in arguments:
                raise NotPython(f"the argument {keyword[1]!r} stands twice", position)
            else:
                arguments[keyword[1]] = value
            position = self._separator(position, ")")
        return PythonCall(name[0], arguments, positional, position + 1)

    def value(self, position: int, depth: int) -> tuple[JsonValue, int]:
        position = self._skip(position)
        start = self.text[position : position + 1]
        if start in CONTAINERS and start:
            if depth >= MAX_DEPTH:
                raise NotPython(f"nested more than {MAX_DEPTH} deep", position)
            return self._mapping_or_set(position, depth) if start == "{" else self._items(position, depth)
        if STRING_OPEN.match(self.text, position):
            return self._strings(position)
        return self._scalar(position)

    def _items(self, position: int, depth: int) -> tuple[JsonValue, int]:
        opener, close = self.text[position], CONTAINERS[self.text[position]]
        items: list[JsonValue] = []
        position, commas = self._skip(position + 1), 0
        while not self._at(position, close):
            item, position = self.value(position, depth + 1)
            items.append(item)
            position = self._skip(position)
            commas += self._at(position, ",")
            position = self._separator(position, close)
        grouped = opener == "(" and len(items) == 1 and not commas
        return (items[0] if grouped else items), position + 1

    def _mapping_or_set(self, position: int, depth: int) -> tuple[JsonValue, int]:
        mapping: dict[str, JsonValue] = {}
        items: list[JsonValue] = []
        position = self._skip(position + 1)
        while not self._at(position, "}"):
            key, position = self.value(position, depth + 1)
            position = self._skip(position)
            if not self._at(position, ":"):
                items.append(key)
            elif isinstance(key, list | dict):
                raise NotPython("a key is no text", position)
            else:
                mapping[key if isinstance(key, str) else str(key)], position = self.value(position + 1, depth + 1)
            position = self._separator(position, "}")
        if mapping and items:
            raise NotPython("keys with and without a value in one object", position)
        return (items or mapping), position + 1

    def _separator(self, position: int, close: str) -> int:
        position = self._skip(position)
        if self._at(position, ","):
            return self._skip(position + 1)
        if not self._at(position, close):
            raise NotPython(f"expected ',' or '{close}', found {self._shown(position)}", position)
        return position

    def _scalar(self, position: int) -> tuple[JsonValue, int]:
        number = NUMBER.match(self.text, position)
        if number and not self.text[number.end() : number.end() + 1].isalnum():
            return _number(number[0], position), number.end()
        word = NAME.match(self.text, position)
        if word and word[0] in CONSTANTS:
            return CONSTANTS[word[0]], word.end()
        raise NotPython(f"expected a literal, found {self._shown(position)}", position)

    def _strings(self, position: int) -> tuple[str, int]:
        """One string, or several that stand next to each other, as one."""
        whole: list[str] = []
        end = position
        while opener := STRING_OPEN.match(self.text, position):
            part, end = self._string(opener)
            whole.append(part)
            position = self._skip(end)
        return "".join(whole), end

    def _string(self, opener: re.Match[str]) -> tuple[str, int]:
        prefix, quote = opener[1].lower(), opener[2]
        if opener.start() in self.forced:
            end = self.forced[opener.start()]
        else:
            end = self._closing_quote(opener.end(), quote)
            if len(quote) == 1 and not self._may_close(end, quote):
                raise _Ambiguous(opener.start(), self._plausible_closers(end, quote))
        inside = self.text[opener.end() : end]
        if "f" in prefix and ("{" in inside or "}" in inside):
            raise NotPython("a string with placeholders is no literal", opener.start())
        return (inside if "r" in prefix or "\\" not in inside else ESCAPE.sub(_unescaped, inside)), end + len(quote)

    def _closing_quote(self, position: int, quote: str) -> int:
        part = STRING_PART[quote]
        while position < len(self.text):
            plain = part.match(self.text, position)
            position = plain.end() if plain else position
            if self.text.startswith(quote, position):
                return position
            position += 2 if self._at(position, "\\") else 1
        raise NotPython("a string is not closed", len(self.text))

    def _may_close(self, position: int, quote: str) -> bool:
        following = self._skip(position + len(quote))
        return following >= len(self.text) or self.text[following] in FOLLOWERS or bool(STRING_OPEN.match(self.text, following))

    def _plausible_closers(self, position: int, quote: str) -> list[int]:
        found: list[int] = []
        while len(found) <= MAX_READINGS:
            try:
                position = self._closing_quote(position + 1, quote)
            except NotPython:
                break
            following = self._skip(position + 1)
            if self.text[following : following + 1] in FOLLOWERS and following < len(self.text):
                found.append(position)
        return found

    def _skip(self, position: int) -> int:
        return skip_blanks(self.text, position)

    def _at(self, position: int, token: str) -> bool:
        return self.text.startswith(token, position)

    def _shown(self, position: int) -> str:
        return repr(self.text[position : position + 20]) if position < len(self.text) else "the end"


def _number(written: str, position: int) -> JsonValue:
    if len(written) > MAX_DIGITS:
        raise NotPython("a number of too many digits", position)
    digits = written.replace("_", "").lower()
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits.lstrip("+-")[:2])
    if base:
        return int(digits, base)
    if not set(digits) & set(".e"):
        return int(digits)
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise NotPython("a number out of range", position)
    return value


def _unescaped(escape: re.Match[str]) -> str:
    line_break, simple, octal, *hexadecimal = escape.groups()
    if line_break:
        return ""
    if simple:
        return SIMPLE_ESCAPES[simple]
    code = int(octal, 8) if octal else int(next(filter(None, hexadecimal)), 16)
    if 0xD800 <= code <= 0xDFFF:
        raise NotPython("holds half of a surrogate pair, which is no text", escape.start())
    return chr(code) if code <= 0x10FFFF else escape[0]
