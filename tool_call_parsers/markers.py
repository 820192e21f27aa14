"""Where markers stand in a text, in time that does not depend on how many kinds of them there are to look for."""

import re
from collections.abc import Sequence

BLANKS = re.compile(r"[ \t\n\r]*")

LONGEST_MARKER = 64
"""Characters; no format has a longer one."""


class MarkerSearch:
    """The next of several markers. Each is looked for once per place where it stands, however often one asks."""

    def __init__(self, text: str, markers: Sequence[str]) -> None:
        self._text = text
        self._next = dict.fromkeys(markers, -1)

    def next(self, position: int) -> int:
        """Where the first marker stands at or after `position`; -1 where none does. Positions must not go down."""
        nearest = -1
        gone: list[str] = []
        for marker, known in self._next.items():
            if known < position:
                known = self._next[marker] = self._text.find(marker, position)
                if known < 0:
                    gone.append(marker)
                    continue
            if nearest < 0 or known < nearest:
                nearest = known
        for marker in gone:
            del self._next[marker]
        return nearest


def first_of(text: str, start: int, markers: Sequence[str], end: int | None = None) -> tuple[int, str]:
    """Where the first of some markers stands, and which, the longer one at the same place; -1 and "" where none does."""
    first, which = -1, ""
    for marker in markers:
        at = text.find(marker, start, end)
        if at >= 0 and (first < 0 or at < first or (at == first and len(marker) > len(which))):
            first, which = at, marker
    return first, which


def marker_at(text: str, start: int, markers: Sequence[str]) -> str:
    """The longest marker that stands at `start`, or an empty string."""
    longest = ""
    for marker in markers:
        if len(marker) > len(longest) and text.startswith(marker, start):
            longest = marker
    return longest


def held_back(text: str, start: int, markers: Sequence[str]) -> int:
    """From where on the end of a text may be the begin of a marker; its length where it is none."""
    longest = max(map(len, markers), default=1) - 1
    for begin in range(max(start, len(text) - longest), len(text)):
        tail = text[begin:]
        if any(marker.startswith(tail) for marker in markers):
            return begin
    return len(text)


def may_begin(text: str, position: int, markers: Sequence[str]) -> bool:
    """Whether the text ends before it shows that no marker begins at `position`."""
    rest = text[position : position + LONGEST_MARKER]
    return position + len(rest) == len(text) and any(marker.startswith(rest) for marker in markers)


def find_outside_strings(text: str, marker: str, start: int, quotes: str = '"') -> int:
    """Where `marker` stands outside of quoted strings, in which a backslash takes the next character; -1 where nowhere.

    A string that is not closed reaches to the end of the text.
    """
    position, any_quote = start, re.compile(f"[{re.escape(quotes)}]")
    while True:
        found = text.find(marker, position)
        if found < 0:
            return -1
        opened = any_quote.search(text, position, found)
        if opened is None:
            return found
        position = _string_end(text, opened.end(), opened.group())
        if position < 0:
            return -1


def _string_end(text: str, position: int, quote: str) -> int:
    """Just behind the quote that closes a string; -1 where none does."""
    while (end := text.find(quote, position)) >= 0:
        backslashes = end - len(text[position:end].rstrip("\\")) - position
        if backslashes % 2 == 0:
            return end + 1
        position = end + 1
    return -1


def blank_end(text: str, start: int = 0) -> int:
    """The first index from `start` on that is no white space of JSON, or the length of the text."""
    if start < len(text) and text[start] > " ":  # usual, and dearer to match than to look at
        return start
    blanks = BLANKS.match(text, start)
    return blanks.end() if blanks else start
