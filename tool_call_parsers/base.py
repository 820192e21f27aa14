"""The contract of a tool-call format: what was sampled in, a parsed completion out.

A parser never raises on what a model wrote: a call that cannot be used is data, with a status that says why.

    base         what comes out, and the Protocol that every parser fulfils
    registry     every format by name; loaded when it is asked for
    grammar      how a format is written: a class with one method, or data for a class that exists
    streaming    the same result in pieces, while the text is still being sampled
    tokens       token ids in place of text: then only special tokens are markers
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from core.types import Message, Role, ToolCall, ToolSpec, Value
from tool_call_parsers.registry import FORMATS, FormatRegistry
from tool_call_parsers.tokens import SampledTokens


class CallStatus(StrEnum):
    """What became of one block that looked like a tool call."""

    OK = "ok"
    UNCLOSED = "unclosed"
    """The text ended before the block did."""
    BAD_JSON = "bad_json"
    """The block is not what the format promises (JSON, a name, an object of arguments)."""
    UNKNOWN_TOOL = "unknown_tool"
    WRONG_ARGUMENTS = "wrong_arguments"
    """Valid JSON that the tool's schema does not accept."""


class MalformedCall(Value):
    """A block that looked like a call and cannot be used: the raw text and what is wrong with it."""

    text: str
    status: CallStatus
    problem: str
    call: ToolCall | None = None
    """The call, where the block was well formed: its tool is unknown, or does not accept the arguments."""


class ParsedCompletion(Value):
    """A completion split into what it is made of. `calls` holds usable calls only, in order."""

    content: str
    reasoning: str | None = None
    calls: tuple[ToolCall, ...] = ()
    malformed: tuple[MalformedCall, ...] = ()

    def message(self) -> Message:
        """The assistant message of this completion.

        Its calls are the well-formed ones, the usable ones first; blocks that are no calls are text of its content.
        """
        refused = (bad.call for bad in self.malformed if bad.call is not None)
        broken = (bad.text for bad in self.malformed if bad.call is None and bad.text not in self.content)
        return Message(
            role=Role.ASSISTANT,
            content="\n".join(text for text in (self.content, *broken) if text),
            reasoning=self.reasoning,
            tool_calls=(*self.calls, *refused),
        )


class ContentDelta(NamedTuple):
    """More of the content."""

    text: str


class ReasoningDelta(NamedTuple):
    """More of the reasoning; an empty one says that there is reasoning, and that it is empty."""

    text: str


StreamEvent = ContentDelta | ReasoningDelta | ToolCall | MalformedCall


class CompletionStream(Protocol):
    """One completion on its way."""

    def feed(self, text: str) -> list[StreamEvent]:
        """What more text brings."""
        ...

    def close(self) -> list[StreamEvent]:
        """What is left when the text has ended."""
        ...


@runtime_checkable
class ToolCallParser(Protocol):
    """One wire format. Holds no state: one parser serves any number of completions at once."""

    name: str

    def parse(
        self,
        sampled: str | SampledTokens,
        tools: Sequence[ToolSpec] = (),
        *,
        starts_in_reasoning: bool | None = None,
        repair: bool = False,
    ) -> ParsedCompletion:
        """Split one completion. With `tools`, names and arguments are checked against them.

        `starts_in_reasoning`: whether the prompt already opened the reasoning block; None where it is not known.
        `repair` closes what was cut off and mends quotes and commas. Time is linear. Never raises on any text.
        """
        ...

    def stream(
        self, tools: Sequence[ToolSpec] = (), *, starts_in_reasoning: bool | None = None, repair: bool = False
    ) -> CompletionStream:
        """The same in pieces: feed it text as it is sampled; what it says adds up to what `parse` returns."""
        ...


PARSERS: FormatRegistry[type[ToolCallParser]] = FormatRegistry("parser", FORMATS)
