"""How a format is written.

    class Hermes(BlockFormat):                     a completion is text with blocks of calls in it
        openers = ("<tool_call>",)                 what begins a block
        def read(self, text, start, reading): ...  the block at `start`

    class Harmony(Format):                         a completion is something else altogether
        def split(self, text, reading): ...

Everything else is done here, once: token ids, reasoning, text around the blocks, streaming, the check against the
tools, ids, and a bound on the work that hostile text can cause.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random

from core.types import ToolCall, ToolSpec
from tool_call_parsers.base import CallStatus, CompletionStream, MalformedCall, ParsedCompletion
from tool_call_parsers.markers import MarkerSearch
from tool_call_parsers.pieces import Block, FoundCall, Item, Reading, Split
from tool_call_parsers.reasoning import ReasoningFormat, Trim
from tool_call_parsers.schemas import check_call, is_text
from tool_call_parsers.streaming import BlockStream, HeldStream
from tool_call_parsers.tokens import SampledTokens

__all__ = ["Block", "BlockFormat", "Format", "FoundCall", "Item", "Reading", "Split"]

FREE_SCAN, SCAN_BUDGET = 65_536, 8
"""Characters that may be looked at beyond the end of broken blocks: so many, and so many times those before the block.
Keeps time linear, and depends on nothing that follows: a stream decides alike."""

CHANCE = Random()
"""Seeded by the system: ids cost no system call. A process that is forked draws others."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CHANCE.seed)


class Format(ABC):
    """A wire format. A subclass says how to split a text; see also BlockFormat."""

    name: str = ""
    reasoning: ReasoningFormat | None = None
    trim: Trim = Trim.BOTH
    """Which white space around the content is the format's."""

    @abstractmethod
    def split(self, text: str, reading: Reading) -> Split:
        """Reasoning, content and calls of a whole text. Must not raise, must take linear time."""

    def parse(
        self,
        sampled: str | SampledTokens,
        tools: Sequence[ToolSpec] = (),
        *,
        starts_in_reasoning: bool | None = None,
        repair: bool = False,
    ) -> ParsedCompletion:
        """Split one completion; see ToolCallParser."""
        guard = ""
        if isinstance(sampled, SampledTokens):
            sampled, guard = sampled.guarded()
        text = sampled if sampled.isascii() or is_text(sampled) else sampled.encode(errors="replace").decode()
        split = self.split(text, Reading(tools, starts_in_reasoning, repair))
        return self.checked(_unguarded(split, guard) if guard else split, tools)

    def stream(
        self, tools: Sequence[ToolSpec] = (), *, starts_in_reasoning: bool | None = None, repair: bool = False
    ) -> CompletionStream:
        """The same in pieces; see ToolCallParser. Nothing comes before the end: for a format that is no BlockFormat."""
        return HeldStream(self, Reading(tools, starts_in_reasoning, repair))

    def checked(self, split: Split, tools: Sequence[ToolSpec]) -> ParsedCompletion:
        """The completion, its calls checked against the tools where there are any."""
        found = [self.check(item, tools) for item in split.items]
        return ParsedCompletion(
            content=split.content,
            reasoning=split.reasoning,
            calls=tuple([one for one in found if isinstance(one, ToolCall)]),
            malformed=tuple([one for one in found if isinstance(one, MalformedCall)]),
        )

    def check(self, item: Item, tools: Sequence[ToolSpec]) -> ToolCall | MalformedCall:
        """One call with its id, or what is wrong with it."""
        if isinstance(item, MalformedCall):
            return item
        call = ToolCall(id=item.id or self.new_id(), name=item.name, arguments=item.arguments)
        return check_call(call, tools, item.value) or call if tools else call

    def new_id(self) -> str:
        """An id for a call whose format has none."""
        return f"call_{CHANCE.getrandbits(128):032x}"

    def trimmed(self, text: str) -> str:
        """Content without the white space that is the format's."""
        if self.trim is Trim.NONE:
            return "" if text.isspace() else text
        return text.strip() if self.trim is Trim.BOTH else text.rstrip()


class BlockFormat(Format):
    """Reasoning, then text with blocks of calls in it. A subclass says what begins a block, and reads one."""

    openers: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    """What a block may end with: a stream looks at a growing block again only where one of these came. Empty: always."""
    text_after_calls: bool = True
    """Whether text behind the first block with calls is content; False where a model should have stopped there."""

    @abstractmethod
    def read(self, text: str, start: int, reading: Reading) -> Block | None:
        """The block at `start`, where one of `openers` stands. Must not raise.

        None where it is text after all; or a block without items that hands the text on as its `content`. `end` must be
        beyond `start`; work beyond `end` must be told as `looked`. A call that the text ends in is a MalformedCall.
        """

    def split(self, text: str, reading: Reading) -> Split:
        """Reasoning first, then the text around the blocks, and the blocks in order."""
        thought, text = self.split_reasoning(text, reading)
        outside: list[str] = []
        items: list[Item] = []
        for content, block in self.blocks(text, reading):
            if self.text_after_calls or not items:
                outside += (content, block.content)
            items += block.items
        return Split(thought, self.trimmed("".join(outside)), tuple(items))

    def stream(
        self, tools: Sequence[ToolSpec] = (), *, starts_in_reasoning: bool | None = None, repair: bool = False
    ) -> CompletionStream:
        """The same in pieces; see ToolCallParser. A format that splits in a way of its own is read at the end."""
        reading = Reading(tools, starts_in_reasoning, repair)
        splits_alike = type(self).split is BlockFormat.split and type(self).split_reasoning is BlockFormat.split_reasoning
        return BlockStream(self, reading) if splits_alike else HeldStream(self, reading)

    def split_reasoning(self, text: str, reading: Reading) -> tuple[str | None, str]:
        """What was thought, None where nothing was, and the rest."""
        if self.reasoning is None or self._has_none(text, self.reasoning, reading.starts_in_reasoning):
            return None, text
        found = self.reasoning.split(text, starts_in_reasoning=reading.starts_in_reasoning, tool_markers=self.openers)
        return found.reasoning, found.answer

    def _has_none(self, text: str, form: ReasoningFormat, starts_in_reasoning: bool | None) -> bool:
        """Whether a glance shows that there is no reasoning: a completion seldom begins with white space."""
        inside = form.prompted if starts_in_reasoning is None else starts_in_reasoning
        if inside or form.answer or text[:1].isspace():
            return False
        return not text.startswith((*form.openers, *form.closers))

    def blocks(self, text: str, reading: Reading) -> Iterator[tuple[str, Block]]:
        """Pairs of text and the block that follows it; the last block is empty, at the end of the text."""
        position, spent = 0, 0
        following = partial(text.find, self.openers[0]) if len(self.openers) == 1 else MarkerSearch(text, self.openers).next
        while (start := following(position)) >= 0:
            block = self.read_within(text, start, reading, spent)
            spent += max(0, block.looked - block.end)
            yield text[position:start], block
            if block.last:
                return
            position = block.end
        yield text[position:], Block(len(text))

    def read_within(self, text: str, start: int, reading: Reading, spent: int) -> Block:
        """The block at `start`, unread where broken ones before it have cost too much."""
        if spent > FREE_SCAN + SCAN_BUDGET * start:
            return self.refused(text, start)
        return self.read(text, start, reading) or Block(start + 1, content=text[start])

    def refused(self, text: str, start: int) -> Block:
        """What stands at `start` up to the next opener, unread."""
        end = min((at for opener in self.openers if (at := text.find(opener, start + 1)) >= 0), default=len(text))
        problem = "too many broken blocks before this one"
        return Block(end, (MalformedCall(text=text[start:end], status=CallStatus.BAD_JSON, problem=problem),))


def _unguarded(split: Split, guard: str) -> Split:
    """The same without the character that kept ordinary text from being a marker."""

    def clean(item: Item) -> Item:
        if isinstance(item, MalformedCall):
            return item.model_copy(update={"text": item.text.replace(guard, ""), "problem": item.problem.replace(guard, "")})
        if guard not in item.text + item.name + item.arguments:
            return item
        fields = {key: getattr(item, key).replace(guard, "") for key in ("name", "arguments", "text")}
        return item._replace(**fields, value=None)

    reasoning = split.reasoning and split.reasoning.replace(guard, "")
    return Split(reasoning, split.content.replace(guard, ""), tuple(clean(item) for item in split.items))
