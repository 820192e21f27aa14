"""The contract of a tool-call format: text that was sampled in, a parsed completion out.

A parser never raises on what a model wrote: a call that cannot be used is data, with a status that says why.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from core.registry import Registry
from core.types import Message, Role, ToolCall, ToolSpec, Value


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
        broken = (bad.text for bad in self.malformed if bad.call is None)
        return Message(
            role=Role.ASSISTANT,
            content="\n".join(text for text in (self.content, *broken) if text),
            reasoning=self.reasoning,
            tool_calls=(*self.calls, *refused),
        )


class ToolCallParser(Protocol):
    """One wire format."""

    name: str

    def parse(self, text: str, tools: Sequence[ToolSpec] = (), *, starts_in_reasoning: bool = False) -> ParsedCompletion:
        """Split one completion. With `tools`, names and arguments are checked against them.

        `starts_in_reasoning`: the prompt already opened the reasoning block. Never raises on any text.
        """
        ...


PARSERS: Registry[type[ToolCallParser]] = Registry("parser", {"hermes": "tool_call_parsers.hermes:HermesParser"})
