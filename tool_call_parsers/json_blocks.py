"""Blocks of JSON calls between markers: one grammar, and the markers of a family as data.

    hermes       <tool_call>{"name": "f", "arguments": {...}}</tool_call>
    granite      <|tool_call|>[{"name": "f", "arguments": {...}}, ...]
    internlm     <|action_start|><|plugin|>{"name": "f", "parameters": {...}}<|action_end|>

A block holds an object or a list of them. It ends where its JSON ends; a close marker that is missing after whole JSON is
forgiven where the text ends there or the next block begins.
"""

from dataclasses import dataclass, replace

from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Block, BlockFormat, Reading
from tool_call_parsers.json_calls import Calls, NotACall, read_calls, shown
from tool_call_parsers.markers import blank_end, first_of, marker_at, may_begin
from tool_call_parsers.reasoning import Trim
from tool_call_parsers.reasoning_formats import reasoning_format
from tool_call_parsers.usual_calls import PLAIN, CallKeys, usual_call

LONGEST_TOKEN = 16
"""Characters of the longest JSON token that has no end mark of its own: `-Infinity`, two escapes of one character."""


@dataclass(frozen=True)
class JsonMarkers:
    """What stands around the JSON of one family."""

    name: str
    openers: tuple[str, ...]
    closers: tuple[str, ...] = ()
    """Empty: the block ends with its JSON."""
    closer_may_miss: bool = False
    """The family writes no close marker; one that stands there all the same is not text."""
    then: tuple[str, ...] = ()
    """One of these must follow the opener, else it is text."""
    bracket: str = ""
    """What JSON must begin with, else the opener is text: for openers that are words."""
    keys: CallKeys = PLAIN
    reasoning: str = ""
    trim: Trim = Trim.BOTH
    text_after_calls: bool = True


class JsonBlocks(BlockFormat):
    """The format of some markers."""

    def __init__(self, markers: JsonMarkers) -> None:
        self.markers = markers
        self.name, self.openers, self.trim = markers.name, markers.openers, markers.trim
        self.closers = () if markers.closer_may_miss else markers.closers
        # where the prompt is not known, text without a closer is an answer rather than a thought
        self.reasoning = replace(reasoning_format(markers.reasoning), prompted=False) if markers.reasoning else None
        self.text_after_calls = markers.text_after_calls
        usual = len(markers.closers) == 1 and markers.keys == PLAIN and not markers.then and not markers.bracket
        self._closer = markers.closers[0] if usual else ""

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The block at `start`; see BlockFormat.read."""
        inside = start + len(marker_at(text, start, self.openers))
        block = self._usual_block(text, inside) if self._closer else None
        if block is not None:
            return block
        if self.markers.then:
            inside = blank_end(text, inside)
            following = marker_at(text, inside, self.markers.then)
            if not following:
                return None
            inside += len(following)
        body = blank_end(text, inside)
        if self.markers.bracket and not text.startswith(self.markers.bracket, body):
            return None
        try:
            calls = read_calls(text, body, self.markers.keys)
            if not calls.whole:
                return self._open_list(text, body, calls, reading)
            return self._closed_block(text, calls)
        except NotACall as broken:
            return self._broken(text, start, inside, broken, reading)

    def _usual_block(self, text: str, inside: int) -> Block | None:
        """The block as models usually write it, by a faster way to the same result; None where it is written otherwise."""
        at = text.find(self._closer, inside)
        found = usual_call(text, inside, at) if at >= 0 else None
        return Block(at + len(self._closer), (found,), True) if found else None

    def _closed_block(self, text: str, calls: Calls) -> Block:
        """The block of these calls. Raises NotACall where something else than its close marker follows."""
        following = blank_end(text, calls.end)
        closer = marker_at(text, following, self.markers.closers)
        if closer:
            return Block(following + len(closer), calls.items, closed=True)
        if self.markers.closer_may_miss or not self.markers.closers:
            firm = not self.markers.closers or not may_begin(text, following, self.markers.closers)
            return Block(calls.end, calls.items, closed=firm)
        if following == len(text) or marker_at(text, following, self.openers):
            return Block(following, calls.items)
        raise NotACall(f"expected {self.markers.closers[0]} after the JSON, found {shown(text, following)}", calls.end)

    def _open_list(self, text: str, body: int, calls: Calls, reading: Reading) -> Block:
        """The block of a list that is not closed: its last element is what is bad, up to where the block ends."""
        limit, end = self._limits(text, calls.sure)
        calls = read_calls(text[:limit].rstrip(), body, self.markers.keys, repair=reading.repair)
        return Block(end, calls.items, looked=len(text))

    def _limits(self, text: str, inside: int) -> tuple[int, int]:
        """Where a broken block's body ends, and where the block does: at its close marker, the next opener or the end."""
        following, _ = first_of(text, inside, self.openers)
        limit = following if following >= 0 else len(text)
        at, closer = first_of(text, inside, self.markers.closers, limit)
        return (at, at + len(closer)) if at >= 0 else (limit, limit)

    def _broken(self, text: str, start: int, inside: int, broken: NotACall, reading: Reading) -> Block:
        """The block that cannot be read, or what repair makes of it."""
        limit, end = self._limits(text, inside)
        # an error close to the end may be a number, a constant or an escape that is not complete yet
        firm = end > limit and not broken.cut and broken.end + LONGEST_TOKEN <= len(text)
        if reading.repair:
            body = text[blank_end(text, inside) : limit].rstrip()
            try:
                calls = read_calls(body, 0, self.markers.keys, repair=True)
                return Block(end, calls.items, closed=firm, looked=broken.end)
            except NotACall:
                pass
        unclosed = end == limit if self.markers.closers else broken.cut
        item = MalformedCall(
            text=text[start:end],
            status=CallStatus.UNCLOSED if unclosed else CallStatus.BAD_JSON,
            problem=str(broken),
        )
        return Block(end, (item,), closed=firm, looked=broken.end)
