"""gpt-oss: messages on channels, whose headers say whom each is for.

    <|channel|>analysis<|message|>why<|end|>
    <|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"city": "Paris"}<|call|>
    <|start|>assistant<|channel|>final<|message|>It rains.<|return|>

`analysis` is reasoning, `final` and a `commentary` to nobody are said. Whatever has a recipient other than the assistant is
a call, on any channel. OpenAI's own reader, the package oss-harmony, raises on headers that it does not expect (a name with
a dash, a second recipient); models write them, so they are read here, and oss-harmony is what tests compare with.
"""

import re
from typing import NamedTuple

from core.types import JsonObject
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Format, FoundCall, Item, Reading, Split
from tool_call_parsers.json_calls import NotACall, read_arguments_at, read_json, shown
from tool_call_parsers.markers import blank_end
from tool_call_parsers.usual_calls import usual_arguments

MESSAGE, START = "<|message|>", "<|start|>"
TOKEN = re.compile(r"<\|(?:start|channel|message|end|call|return|constrain)\|>")
END = re.compile(r"<\|(?:end|call|return|start)\|>")
RECIPIENT = re.compile(r"\bto=(?P<name>[^\s<]+)")
CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w+)")
NOT_TOOLS = ("assistant", "user", "all")


class _Message(NamedTuple):
    header: str
    text: str
    closed: bool
    arguments: tuple[str, JsonObject] | None = None
    """Those of a call, where they were read to see where the message ends."""


class Harmony(Format):
    """Parser of gpt-oss completions. Holds no state."""

    name = "openai"

    def split(self, text: str, reading: Reading) -> Split:
        """The messages by channel; those of a kind are put together line by line."""
        thoughts: list[str] = []
        content: list[str] = []
        items: list[Item] = []
        for message in _messages(text, bool(reading.starts_in_reasoning)):
            recipient = RECIPIENT.search(message.header)
            channel = CHANNEL.search(message.header)
            if recipient and recipient["name"] not in NOT_TOOLS:
                items.append(_call(recipient["name"].removeprefix("functions."), message, reading))
            elif channel and channel["name"] == "analysis":
                thoughts.append(message.text.strip())
            elif not recipient:
                content.append(message.text.strip())
        return Split("\n".join(filter(None, thoughts)) if thoughts else None, "\n".join(filter(None, content)), tuple(items))


def _messages(text: str, starts_in_reasoning: bool) -> list[_Message]:
    """The messages of a completion in order. What has no header is said, or thought where the prompt began a thought."""
    found: list[_Message] = []
    position = 0
    if starts_in_reasoning and not text.lstrip().startswith(("<|channel|>", START)):
        message, position = _body("<|channel|>analysis", text, 0)
        found.append(message)
    while position < len(text):
        begin = position
        body = text.find(MESSAGE, begin)
        following = text.find(START, begin + len(START)) if text.startswith(START, begin) else text.find(START, begin)
        if body < 0 or (0 <= following < body):
            end = following if following >= 0 else len(text)
            rest = text[begin:end]
            if rest.strip() and (TOKEN.sub("", rest).strip() not in ("", "assistant")):
                found.append(_Message("", rest, closed=True))
            position = end
            continue
        header = text[begin:body]
        said = header if TOKEN.search(header) is None and "to=" not in header else ""
        if said.strip():
            found.append(_Message("", said, closed=True))
        message, position = _body(header, text, body + len(MESSAGE))
        found.append(message)
    return found


def _body(header: str, text: str, start: int) -> tuple[_Message, int]:
    """The message whose text begins at `start`, and where the next one begins. A marker inside of JSON is text."""
    end = END.search(text, start)
    if end and RECIPIENT.search(header):
        written = text[start : end.start()]
        if written.endswith("}") and (usual := usual_arguments(written)):
            return _Message(header, written, True, usual), _behind(end)
        end = END.search(text, _json_end(text, start))
    if end is None:
        return _Message(header, text[start:], closed=False), len(text)
    return _Message(header, text[start : end.start()], closed=True), _behind(end)


def _behind(end: re.Match[str]) -> int:
    """Where the next message begins: its own start ends a message too."""
    return end.start() if end.group() == START else end.end()


def _json_end(text: str, start: int) -> int:
    """Behind the object at `start`, or `start` where there is none."""
    body = blank_end(text, start)
    if not text.startswith("{", body):
        return start
    try:
        return read_json(text, body)[1]
    except NotACall:
        return start


def _call(name: str, message: _Message, reading: Reading) -> Item:
    """The call of a message to a tool."""
    written = f"{message.header}{MESSAGE}{message.text}"
    if message.arguments:
        return FoundCall(name, *message.arguments, text=written)
    body = blank_end(message.text)
    if body == len(message.text) and message.closed:
        return FoundCall(name, "{}", {}, text=written)
    try:
        arguments, value, end = read_arguments_at(message.text.rstrip(), body, repair=reading.repair)
        if blank_end(message.text, end) < len(message.text):
            raise NotACall(f"expected the end of the message, found {shown(message.text, end)}", end)
    except NotACall as broken:
        status = CallStatus.BAD_JSON if message.closed or not broken.cut else CallStatus.UNCLOSED
        return MalformedCall(text=written, status=status, problem=str(broken))
    return FoundCall(name, arguments, value, text=written)
