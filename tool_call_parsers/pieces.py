"""What grammars and streams hand to each other: a call that was found, a block, a completion before it is checked."""

from collections.abc import Sequence
from typing import NamedTuple

from core.types import JsonObject, ToolSpec
from tool_call_parsers.base import MalformedCall


class Reading(NamedTuple):
    """What a grammar may know beside the text."""

    tools: Sequence[ToolSpec] = ()
    starts_in_reasoning: bool | None = None
    repair: bool = False
    final: bool = True
    """False while the text is still growing: a block that could yet change must then not be `closed`."""


class FoundCall(NamedTuple):
    """A well-formed call; whether there is such a tool is not known yet."""

    name: str
    arguments: str
    """JSON text of an object."""
    value: JsonObject | None = None
    """The same object, where it was read anyway: it is not read a second time."""
    id: str | None = None
    """The model's own, where the format has ids that must be kept."""
    text: str = ""
    """How it was written."""


Item = FoundCall | MalformedCall


class Block(NamedTuple):
    """What stands at an opener: its calls, and where the text goes on."""

    end: int
    items: tuple[Item, ...] = ()
    closed: bool = False
    """True where nothing that may follow can change this block: a stream then hands it on at once."""
    looked: int = 0
    """How far the text was looked at, where that is beyond `end`."""
    content: str = ""
    """Text of the block that is no call after all."""
    last: bool = False
    """Whatever follows counts for nothing: neither calls nor text."""


class Split(NamedTuple):
    """A completion before its calls are checked against the tools."""

    reasoning: str | None
    content: str
    items: tuple[Item, ...] = ()
