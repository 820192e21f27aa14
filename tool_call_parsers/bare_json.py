"""Formats whose calls stand in a completion without markers, so that only their keys tell them from other JSON.

    llama    {"name": "f", "parameters": {...}}; {"name": "g", "parameters": {...}}     after <|python_tag|>, or bare
    xlam     [{"name": "f", "arguments": {...}}]     at the begin, behind </think>, or in a fence or tag

What is no call, such as an answer in JSON, is text.
"""

import re

from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Block, BlockFormat, Reading
from tool_call_parsers.json_calls import NotACall, read_call, read_calls, read_json
from tool_call_parsers.markers import blank_end, marker_at, may_begin
from tool_call_parsers.reasoning import Trim
from tool_call_parsers.usual_calls import CallKeys

KEYS = CallKeys(arguments=("parameters", "arguments"), needs_arguments=True)
LISTED = CallKeys(needs_arguments=True)
LOOKS_LIKE_A_CALL = re.compile(r'\{\s*"(?:name|function|type)"\s*:\s*"')
FENCE = re.compile(r"```(?:json)?\s*")
CLOSERS = ("```", "</tool_call>")
BLANKS = " \t\r\n"
LONGEST_TOKEN = 16


class Llama(BlockFormat):
    """Llama 3.1, 3.2 and 4 in JSON. Holds no state."""

    name = "llama3_json"
    openers = ("<|python_tag|>", "{")
    closers = ("}",)
    trim = Trim.NONE

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The object at `start`, or behind its tag."""
        tagged = not text.startswith("{", start)
        body = blank_end(text, start + len(self.openers[0])) if tagged else start
        if not text.startswith("{", body):
            return Block(body, content="", closed=body < len(text)) if tagged else None
        try:
            call, end = read_call(text, body, KEYS)
            behind, firm = self._separated(text, end)
            return Block(behind, (call,), closed=firm)
        except NotACall as broken:
            return self._no_call(text, start, body, broken, reading)

    def _separated(self, text: str, end: int) -> tuple[int, bool]:
        """Behind the separator of two calls, where there is one; and whether that is beyond doubt."""
        following = blank_end(text, end)
        if text.startswith((";", ","), following):
            following = blank_end(text, following + 1)
        behind = following if text.startswith(self.openers, following) else end
        return behind, not may_begin(text, following, self.openers)

    def _no_call(self, text: str, start: int, body: int, broken: NotACall, reading: Reading) -> Block:
        """JSON that is no call is text; what looks like a call and cannot be used is reported, and is text too."""
        firm = not broken.cut and broken.end + LONGEST_TOKEN <= len(text)
        if reading.repair and broken.cut:
            try:
                call, _ = read_call(text, body, KEYS, repair=True)
                return Block(len(text), (call,), looked=broken.end)
            except NotACall:
                pass
        if body == start and not LOOKS_LIKE_A_CALL.match(text, body):
            end = self._end_of_json(text, body)
            return Block(end, content=text[start:end], closed=firm, looked=broken.end)
        end = len(text) if broken.cut else max(body + 1, min(broken.end, len(text)))
        status = CallStatus.UNCLOSED if broken.cut else CallStatus.BAD_JSON
        item = MalformedCall(text=text[body:end], status=status, problem=str(broken))
        return Block(end, (item,), closed=firm, looked=broken.end, content=text[body:end])

    def _end_of_json(self, text: str, body: int) -> int:
        try:
            return read_json(text, body)[1]
        except NotACall:
            return body + 1


class XLam(BlockFormat):
    """Salesforce's xLAM. Holds no state."""

    name = "xlam"
    openers = ("```", "[TOOL_CALLS]", "<tool_call>", "[")
    closers = ("]",)

    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The list of calls at `start`, or inside of its fence or tags."""
        opener = marker_at(text, start, self.openers)
        if opener == "[" and not _begins_an_answer(text, start):
            return None
        fence = FENCE.match(text, start)
        body = fence.end() if fence else blank_end(text, start + len(opener)) if opener != "[" else start
        if not text.startswith("[", body):
            return Block(start + len(opener), content=opener)
        try:
            calls = read_calls(text, body, LISTED, repair=False)
        except NotACall as broken:
            return self._no_calls(text, start, body, broken, reading)
        if not calls.whole:
            calls = read_calls(text, body, LISTED, repair=reading.repair)
            return Block(len(text), calls.items)
        following = blank_end(text, calls.end)
        closer = "" if opener == "[" else marker_at(text, following, CLOSERS)
        if closer:
            return Block(following + len(closer), calls.items, closed=True)
        return Block(calls.end, calls.items, closed=not may_begin(text, following, CLOSERS))

    def _no_calls(self, text: str, start: int, body: int, broken: NotACall, reading: Reading) -> Block:
        if reading.repair and broken.cut:
            try:
                return Block(len(text), read_calls(text, body, LISTED, repair=True).items, looked=broken.end)
            except NotACall:
                pass
        if not LOOKS_LIKE_A_CALL.match(text, blank_end(text, body + 1)):
            return Block(body + 1, content=text[start : body + 1], looked=broken.end)
        end = len(text) if broken.cut else max(body + 1, min(broken.end, len(text)))
        status = CallStatus.UNCLOSED if broken.cut else CallStatus.BAD_JSON
        item = MalformedCall(text=text[body:end], status=status, problem=str(broken))
        return Block(end, (item,), content=text[start:end], looked=broken.end)


def _begins_an_answer(text: str, start: int) -> bool:
    """Whether nothing but white space stands before, or the end of reasoning."""
    before = start
    while before and text[before - 1] in BLANKS:
        before -= 1
    return before == 0 or text.endswith("</think>", 0, before)
