"""Mistral's formats, old and new; which one it is shows behind the marker.

    up to v7     [TOOL_CALLS] [{"name": "f", "arguments": {...}, "id": "abcdefgh1"}]
    v11          [TOOL_CALLS]f[CALL_ID]abcdefgh1[ARGS]{...}
    from v13     [TOOL_CALLS]f[ARGS]{...}[TOOL_CALLS]g[ARGS]{...}
    decoded without special tokens, or by habit    [TOOL_CALLS]f{...}

Text behind a call is none: the models should have stopped there. Ids are nine letters and digits.
"""

import re

from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import CHANCE, Block, BlockFormat, FoundCall, Reading
from tool_call_parsers.json_calls import NotACall, read_arguments_at, read_calls, shown
from tool_call_parsers.markers import blank_end
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.usual_calls import CallKeys, usual_arguments

MARKER, CALL_ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
HEAD = re.compile(r"\s*(?P<name>[^\s\[{]{0,256})\s*(?:\[CALL_ID\]\s*(?P<id>[^\s\[{]{0,64})\s*)?(?P<args>\[ARGS\]\s*)?")
IDENTIFIER = re.compile(r"[^\W\d][\w.\-:/]*")
NINE = re.compile(r"[a-zA-Z0-9]{9}")
KEYS = CallKeys(id="id")
LISTED = CallKeys(needs_arguments=True)
LONGEST_TOKEN = 16


class Mistral(BlockFormat):
    """Parser of Mistral's formats. Holds no state."""

    name = "mistral"
    openers = (MARKER, "[{")
    closers = ("}",)
    reasoning = reasoning_format("mistral")
    text_after_calls = False

    def new_id(self) -> str:
        """Nine letters and digits: Mistral's chat templates refuse anything else."""
        return f"{CHANCE.getrandbits(36):09x}"

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The calls behind a marker; or a list of calls that is the whole completion, as constrained sampling makes."""
        if not text.startswith(MARKER, start):
            return self._bare_list(text, start)
        inside = start + len(MARKER)
        body = blank_end(text, inside)
        if text.startswith(MARKER, body):
            return Block(body, closed=True)
        if text.startswith(("[", "{"), body) and not text.startswith((ARGUMENTS, CALL_ID), body):
            return self._old(text, start, body, reading)
        return self._new(text, start, inside, reading)

    def _bare_list(self, text: str, start: int) -> Block | None:
        if blank_end(text) != start:
            return None
        try:
            calls = read_calls(text, start, LISTED)
        except NotACall as broken:
            return Block(start + 1, content=text[start], looked=broken.end)
        if not calls.whole or blank_end(text, calls.end) < len(text):
            return Block(start + 1, content=text[start], looked=calls.end)
        return Block(calls.end, calls.items)

    def _old(self, text: str, start: int, body: int, reading: Reading) -> Block:
        """One list of calls, or one call; nothing else counts behind it."""
        try:
            calls = read_calls(text, body, KEYS)
            if calls.whole:
                items = tuple(_with_valid_id(item) if isinstance(item, FoundCall) else item for item in calls.items)
                return Block(calls.end, items, closed=True, last=True)
        except NotACall as broken:
            if text.startswith("{", body):
                return self._arguments(text, start, "", None, body, reading)
            return self._broken(text, start, body, broken, reading)
        end = self._limit(text, calls.sure)
        calls = read_calls(text[:end], body, KEYS, repair=reading.repair)
        return Block(end, calls.items, looked=len(text))

    def _new(self, text: str, start: int, inside: int, reading: Reading) -> Block:
        """A name, perhaps an id, and arguments."""
        head = HEAD.match(text, inside)
        assert head is not None  # every part of it may be empty
        if text.startswith("{", head.end()):
            return self._arguments(text, start, head["name"], head["id"], head.end(), reading)
        cut = head.end() == len(text) and (head["args"] or head["id"] or IDENTIFIER.fullmatch(head["name"]))
        if not cut and not head["args"]:
            body = blank_end(text, inside)
            return Block(body, content=text[inside:body], looked=head.end())
        problem = f"expected arguments, found {shown(text, head.end())}"
        end = self._limit(text, inside)
        status = CallStatus.UNCLOSED if cut else CallStatus.BAD_JSON
        return Block(end, (MalformedCall(text=text[start:end], status=status, problem=problem),))

    def _arguments(self, text: str, start: int, name: str, own: str | None, body: int, reading: Reading) -> Block:
        limit = self._limit(text, body)
        usual = usual_arguments(text[body:limit].rstrip())
        if usual:
            found = FoundCall(name, *usual, own if own and NINE.fullmatch(own) else None, text[start:limit])
            return Block(limit, (found,), closed=True)
        try:
            written, value, end = read_arguments_at(text, body)
        except NotACall as broken:
            return self._broken(text, start, body, broken, reading, name)
        found = FoundCall(name, written, value, own if own and NINE.fullmatch(own) else None, text[start:end])
        return Block(end, (found,), closed=True)

    def _broken(self, text: str, start: int, body: int, broken: NotACall, reading: Reading, name: str = "") -> Block:
        end = self._limit(text, body)
        if reading.repair and name:
            try:
                written, value, _ = read_arguments_at(text[body:end].rstrip(), 0, repair=True)
                return Block(end, (FoundCall(name, written, value, None, text[start:end]),), looked=broken.end)
            except NotACall:
                pass
        status = CallStatus.UNCLOSED if broken.cut else CallStatus.BAD_JSON
        firm = end < len(text) and not broken.cut and broken.end + LONGEST_TOKEN <= len(text)
        item = MalformedCall(text=text[start:end], status=status, problem=str(broken))
        return Block(end, (item,), closed=firm, looked=broken.end)

    def _limit(self, text: str, position: int) -> int:
        following = text.find(MARKER, position)
        return following if following >= 0 else len(text)


def _with_valid_id(call: FoundCall) -> FoundCall:
    return call if call.id is None or NINE.fullmatch(call.id) else call._replace(id=None)
