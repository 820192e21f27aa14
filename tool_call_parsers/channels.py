"""Formats whose completions are messages on channels: Beam, Muse and Inkling. Each message says what it is.

    beam      <|channel|>analysis<|message|>why<|end|><|start|>assistant to=f<|channel|>analysis <|constrain|>xml<|message|>
              <rfl:parameter name="k">v</rfl:parameter><|call|>
    muse      to=self<|message|>why<|eom|><|start|>assistant to=f<|message|><atem:function_calls>...<|eom|>
    inkling   <|content_thinking|>why<|end_message|><|message_model|><|content_invoke_tool_json|>{...}<|end_message|>

A call counts in a message to a tool only: one that is quoted while thinking, or in an answer, is text.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator
from enum import Enum, auto
from typing import ClassVar, NamedTuple

from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Format, FoundCall, Item, Reading, Split
from tool_call_parsers.json_calls import NotACall, read_call, shown
from tool_call_parsers.tagged import TaggedFormat
from tool_call_parsers.tags import Tags
from tool_call_parsers.usual_calls import CallKeys
from tool_call_parsers.xml_formats import INVOKE

START, MESSAGE = "<|start|>", "<|message|>"
LONGEST_HEADER = 512
"""Characters."""


def behind(end: re.Match[str]) -> int:
    """Where the next message begins: its own start ends a message too."""
    return end.start() if end.group() == START else end.end()


class Channel(Enum):
    """Whom a message is for."""

    REASONING = auto()
    CONTENT = auto()
    TOOL = auto()
    NOBODY = auto()


class ChannelMessage(NamedTuple):
    """One message: its text, whom it is for, and the name of the tool where its header has it."""

    channel: Channel
    text: str
    tool: str = ""
    closed: bool = True


class ChannelFormat(Format):
    """A format of this kind: a subclass finds the messages, and the calls in those to tools."""

    def split(self, text: str, reading: Reading) -> Split:
        """The messages by channel, each kind put together in order."""
        thoughts: list[str] = []
        content: list[str] = []
        items: list[Item] = []
        for message in self.messages(text, reading):
            if message.channel is Channel.REASONING:
                thoughts.append(message.text)
            elif message.channel is Channel.CONTENT:
                content.append(message.text)
            elif message.channel is Channel.TOOL:
                items += self.calls(message, reading)
        reasoning = "".join(thoughts).strip() if thoughts else None
        return Split(reasoning, self.trimmed("".join(content)), tuple(items))

    @abstractmethod
    def messages(self, text: str, reading: Reading) -> Iterator[ChannelMessage]:
        """The messages of a completion in order."""

    @abstractmethod
    def calls(self, message: ChannelMessage, reading: Reading) -> list[Item]:
        """The calls in a message to a tool."""


class _BeamArguments(TaggedFormat):
    name = "beam"
    openers = ("<call=",)
    tags = Tags(
        call=r"<call=(?P<name>[^<>\n]*)>",
        call_close=r"</call>",
        argument=r"<rfl:parameter\s+name=[\"']?(?P<name>[^\"'<>\n]*)[\"']?\s*>",
        argument_close=r"</rfl:parameter>",
        line_breaks=True,
    )


class Beam(ChannelFormat):
    """Beam: the messages of Harmony, the arguments of a call as elements."""

    name = "beam"
    end = re.compile(r"<\|(?:end|call|return|start)\|>")
    recipient = re.compile(r"\bto=(?P<name>[^\s<]+)")
    arguments = _BeamArguments()

    def messages(self, text: str, reading: Reading) -> Iterator[ChannelMessage]:
        """Text without any header is an answer, or reasoning where the prompt began some."""
        if MESSAGE not in text and not text.lstrip().startswith("<|"):
            yield ChannelMessage(Channel.REASONING if reading.starts_in_reasoning else Channel.CONTENT, text)
            return
        position = 0
        if reading.starts_in_reasoning and (end := self.end.search(text)):
            yield ChannelMessage(Channel.REASONING, text[: end.start()])
            position = behind(end)
        while (body := text.find(MESSAGE, position)) >= 0:
            header = text[max(position, text.rfind(START, position, body)) : body]
            body += len(MESSAGE)
            end = self.end.search(text, body)
            yield self._message(header, text[body : end.start() if end else len(text)])
            position = behind(end) if end else len(text)

    def _message(self, header: str, text: str) -> ChannelMessage:
        recipient = self.recipient.search(header)
        if recipient and recipient["name"] != "assistant":
            return ChannelMessage(Channel.TOOL, text, recipient["name"].removeprefix("functions."))
        return ChannelMessage(Channel.REASONING if "analysis" in header else Channel.CONTENT, text)

    def calls(self, message: ChannelMessage, reading: Reading) -> list[Item]:
        """The one call of the message."""
        block = self.arguments.read(f"<call={message.tool}>{message.text.rstrip()}</call>", 0, reading)
        return list(block.items) if block else []


class _AtemCalls(TaggedFormat):
    name = "muse"
    openers = ("<atem:function_calls>", "<atem:invoke")
    tags = Tags(
        wrapper=r"<atem:function_calls>",
        wrapper_close=r"</atem:function_calls>",
        call=INVOKE.call.replace("<invoke", r"<atem:invoke"),
        call_close=r"</atem:invoke>",
        argument=r"<atem:parameter\b[^<>]*?\bname=\"(?P<name>[^\"<>]+)\"[^<>]*>",
        argument_close=r"</atem:parameter>",
        json_values=True,
    )


class Muse(ChannelFormat):
    """Muse Spark: `to=self` is reasoning, `to=user` and `to=commentary` are said, any other recipient is a tool."""

    name = "muse"
    header = re.compile(r"(?:<\|start\|>\s*assistant)?[^\S\n]*(?:to=(?P<name>[\w.\-]+))?\Z")
    end = re.compile(r"<\|(?:eom|eot|start)\|>")
    recipients: ClassVar[dict[str | None, Channel]] = {
        None: Channel.REASONING,
        "self": Channel.REASONING,
        "user": Channel.CONTENT,
        "commentary": Channel.CONTENT,
        "developer": Channel.NOBODY,
    }
    atem = _AtemCalls()

    def messages(self, text: str, reading: Reading) -> Iterator[ChannelMessage]:
        """Text without any header is an answer, or calls where it has some: its headers were lost on the way."""
        if MESSAGE not in text:
            yield ChannelMessage(Channel.TOOL if "<atem:invoke" in text else self._unframed(reading), text)
            return
        position = 0
        if reading.starts_in_reasoning and (end := self.end.search(text)):
            yield ChannelMessage(Channel.REASONING, text[: end.start()])
            position = behind(end)
        while (marker := text.find(MESSAGE, position)) >= 0:
            header, body = self._header(text, position, marker), marker + len(MESSAGE)
            end = self.end.search(text, body)
            stop = end.start() if end else len(text)
            following = text.find(MESSAGE, body, stop)
            stop = self._header(text, body, following).start() if following >= 0 else stop
            channel = self.recipients.get(header["name"], Channel.TOOL)
            yield ChannelMessage(channel, text[body:stop], header["name"] or "", closed=end is not None)
            position = stop

    def _header(self, text: str, start: int, marker: int) -> re.Match[str]:
        """What of a text says whom the message is for whose marker stands there."""
        found = self.header.search(text, max(start, marker - LONGEST_HEADER), marker)
        assert found is not None  # every part of it may be empty
        return found

    def _unframed(self, reading: Reading) -> Channel:
        return Channel.REASONING if reading.starts_in_reasoning else Channel.CONTENT

    def calls(self, message: ChannelMessage, reading: Reading) -> list[Item]:
        """The calls of the message. A bare name that was doubled (`f.f`) is the bare name, where that is a tool."""
        items = [item for _, block in self.atem.blocks(message.text, reading) for item in block.items]
        known = {tool.name for tool in reading.tools}
        return [item._replace(name=_undoubled(item.name, known)) if isinstance(item, FoundCall) else item for item in items]


def _undoubled(name: str, known: set[str]) -> str:
    head, _, tail = name.partition(".")
    return head if head == tail and head in known and name not in known else name


class MuseGlimmer(Muse):
    """Muse Glimmer: a message without a recipient is said, and there is no commentary."""

    name = "muse_glimmer"
    recipients: ClassVar[dict[str | None, Channel]] = {
        None: Channel.CONTENT,
        "self": Channel.REASONING,
        "user": Channel.CONTENT,
    }


INKLING = CallKeys(arguments=("args", "arguments", "parameters"))


class Inkling(ChannelFormat):
    """Inkling: blocks of a kind, closed by `<|end_message|>`; a call is a JSON object of `name` and `args`."""

    name = "inkling"
    kinds: ClassVar[dict[str, Channel]] = {
        "<|content_thinking|>": Channel.REASONING,
        "<|content_text|>": Channel.CONTENT,
        "<|content_invoke_tool_text|>": Channel.CONTENT,
        "<|content_tool_error|>": Channel.CONTENT,
        "<|content_invoke_tool_json|>": Channel.TOOL,
    }
    marker = re.compile(r"<\|(?:message_model|end_message|content_\w+)\|>")

    def messages(self, text: str, reading: Reading) -> Iterator[ChannelMessage]:
        """What stands before the mark of a kind is a header; before the end of a message it is said."""
        channel = Channel.REASONING if reading.starts_in_reasoning else Channel.NOBODY
        position, said = 0, bool(reading.starts_in_reasoning)
        for marker in self.marker.finditer(text):
            between = text[position : marker.start()]
            kind = self.kinds.get(marker[0])
            if channel is Channel.TOOL and kind:
                continue
            if channel is not Channel.NOBODY:
                yield ChannelMessage(channel, between)
            elif kind is None and marker[0] != "<|message_model|>":
                yield ChannelMessage(Channel.CONTENT, between)
            channel, position = kind or Channel.NOBODY, marker.end()
            said = True
        if channel is not Channel.NOBODY or not said:
            yield ChannelMessage(channel if said else Channel.CONTENT, text[position:], closed=False)

    def calls(self, message: ChannelMessage, reading: Reading) -> list[Item]:
        """The one call of the message."""
        text = message.text.strip()
        try:
            call, end = read_call(text, 0, INKLING, repair=reading.repair)
            if end < len(text):
                raise NotACall(f"expected the end of the message, found {shown(text, end)}", end)
        except NotACall as error:
            status = CallStatus.BAD_JSON if message.closed else CallStatus.UNCLOSED
            return [MalformedCall(text=text, status=status, problem=str(error))]
        return [call]
