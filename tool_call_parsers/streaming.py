"""A completion in pieces, while it is still being sampled.

Content comes at once, except an end that may become a marker; reasoning likewise; a call comes whole, as its block
closes. What all events say together is what `parse` returns for the whole text: content and reasoning are the texts of
their events put together, calls and malformed calls are in order.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from core.types import ToolCall, ToolSpec
from tool_call_parsers.base import ContentDelta, MalformedCall, ParsedCompletion, ReasoningDelta, StreamEvent
from tool_call_parsers.markers import blank_end, first_of, held_back
from tool_call_parsers.pieces import Block, Item, Reading
from tool_call_parsers.reasoning import ReasoningFormat, Trim
from tool_call_parsers.tokens import SampledTokens

RETRY_BUDGET = 32
"""Characters that may be read again while a block grows, as a multiple of those that came."""


class Whole(Protocol):
    """What a stream that holds everything asks of a format."""

    def parse(
        self,
        sampled: str | SampledTokens,
        tools: Sequence[ToolSpec] = (),
        *,
        starts_in_reasoning: bool | None = None,
        repair: bool = False,
    ) -> ParsedCompletion: ...


class InBlocks(Protocol):
    """What a stream that hands on block by block asks of a format; see grammar.BlockFormat."""

    openers: tuple[str, ...]
    closers: tuple[str, ...]
    reasoning: ReasoningFormat | None
    trim: Trim
    text_after_calls: bool

    def read_within(self, text: str, start: int, reading: Reading, spent: int) -> Block: ...

    def check(self, item: Item, tools: Sequence[ToolSpec]) -> ToolCall | MalformedCall: ...


def joined(events: Sequence[StreamEvent]) -> ParsedCompletion:
    """The completion that events add up to."""
    thoughts = [one.text for one in events if isinstance(one, ReasoningDelta)]
    return ParsedCompletion(
        content="".join(one.text for one in events if isinstance(one, ContentDelta)),
        reasoning="".join(thoughts) if thoughts else None,
        calls=tuple(one for one in events if isinstance(one, ToolCall)),
        malformed=tuple(one for one in events if isinstance(one, MalformedCall)),
    )


class HeldStream:
    """For a format that can only be read whole: everything comes at the end."""

    def __init__(self, form: Whole, reading: Reading) -> None:
        self._form, self._reading = form, reading
        self._pieces: list[str] = []

    def feed(self, text: str) -> list[StreamEvent]:
        """Nothing yet."""
        self._pieces.append(text)
        return []

    def close(self) -> list[StreamEvent]:
        """Everything."""
        reading = self._reading
        parsed = self._form.parse(
            "".join(self._pieces),
            reading.tools,
            starts_in_reasoning=reading.starts_in_reasoning,
            repair=reading.repair,
        )
        events: list[StreamEvent] = [] if parsed.reasoning is None else [ReasoningDelta(parsed.reasoning)]
        if parsed.content:
            events.append(ContentDelta(parsed.content))
        return [*events, *parsed.calls, *parsed.malformed]


class Trimmer:
    """Text in pieces without the white space that belongs to the format; nothing but white space is no text."""

    def __init__(self, trim: Trim) -> None:
        self._trim, self._begun = trim, False
        self._blanks: list[str] = []

    def push(self, text: str) -> str:
        """What of the text so far can be said; white space is kept until something follows it."""
        if self._trim is Trim.NONE and self._begun:
            return text
        if self._trim is Trim.BOTH and not self._begun:
            text = text.lstrip()
        kept = text if self._trim is Trim.NONE and not text.isspace() else text.rstrip()
        if not kept:
            self._blanks.append(text)
            return ""
        said = "".join((*self._blanks, kept))
        self._blanks, self._begun = [text[len(kept) :]], True
        return said


class ReasoningReader:
    """The reasoning at the begin of a text that grows."""

    def __init__(self, form: ReasoningFormat, starts_inside: bool | None, tool_markers: Sequence[str]) -> None:
        self._form, self._starts_inside, self._tool_markers = form.behind(starts_inside), starts_inside, tool_markers
        self._inside = form.prompted if starts_inside is None else starts_inside
        self._whole = form.repeats or bool(form.answer) or form.swap_when_empty
        self._searched = 0
        self._said = Trimmer(form.trim)
        self._count, self._upto, self._paused = 0, 0, False

    def read(self, text: str, final: bool) -> tuple[list[StreamEvent], str | None]:
        """Reasoning that can be said, and the answer so far once it has begun."""
        if final or self._is_over(text):
            found = self._form.split(text, starts_in_reasoning=self._starts_inside, tool_markers=self._tool_markers)
            if found.reasoning is None:
                return [], found.answer
            rest = found.reasoning[self._count :]
            return [ReasoningDelta(rest)] if rest or not self._count else [], found.answer
        return self._more(text), None

    def _is_over(self, text: str) -> bool:
        """Whether nothing that may follow changes where the reasoning ends."""
        if self._form.kept_in_content:
            return True
        start = blank_end(text)
        markers = (*self._form.openers, *self._form.closers)
        if not self._inside:
            if start == len(text) or (held_back(text, start, markers) == start and start < len(text)):
                return False
            if not any(text.startswith(marker, start) for marker in markers):
                return not self._form.answer
        if self._whole:
            return False
        at, closer = first_of(text, self._searched, self._form.closers)
        if at < 0:
            self._searched = max(0, len(text) - max(map(len, self._form.closers)))
            return False
        self._searched = at
        following = blank_end(text, at + len(closer))
        return following < len(text) and held_back(text, following, self._form.closers) != following

    def _more(self, text: str) -> list[StreamEvent]:
        """Reasoning up to what may be a marker; none of it from a tool marker on, which may end it."""
        if self._whole or self._paused:
            return []
        if not self._upto:
            start = blank_end(text)
            opener = next((one for one in self._form.openers if text.startswith(one, start)), "")
            if start == len(text) or (not opener and held_back(text, start, self._form.openers) == start):
                return []
            if not opener and not self._inside:
                return []
            self._upto = start + len(opener) if opener else 0
        markers = (*self._form.closers, *self._tool_markers)
        at, _ = first_of(text, self._upto, markers)
        self._paused = at >= 0
        end = at if at >= 0 else held_back(text, self._upto, markers)
        said = self._said.push(text[self._upto : end])
        self._upto = end
        self._count += len(said)
        return [ReasoningDelta(said)] if said else []


class BlockStream:
    """A text with blocks of calls in it."""

    def __init__(self, form: InBlocks, reading: Reading) -> None:
        self._form, self._reading = form, reading
        self._reasoning = ReasoningReader(form.reasoning, reading.starts_in_reasoning, form.openers) if form.reasoning else None
        self._content = Trimmer(form.trim)
        self._text, self._position, self._searched = "", 0, 0
        self._block, self._awaited, self._spent, self._tried = -1, 0, 0, 0
        self._speaks, self._over = True, False

    def feed(self, text: str) -> list[StreamEvent]:
        """What more text brings."""
        self._text += text
        return list(self._events(final=False))

    def close(self) -> list[StreamEvent]:
        """What is left when the text has ended."""
        return list(self._events(final=True))

    def _events(self, final: bool) -> Iterator[StreamEvent]:
        if self._reasoning is not None:
            events, answer = self._reasoning.read(self._text, final)
            yield from events
            if answer is None:
                return
            self._reasoning, self._text = None, answer
        yield from self._answer(final)

    def _answer(self, final: bool) -> Iterator[StreamEvent]:
        reading = self._reading._replace(final=final)
        while not self._over and (self._block >= 0 or self._find_block()):
            if not final and not self._is_worth_reading():
                return
            block = self._form.read_within(self._text, self._block, reading, self._spent)
            if not final and not block.closed:
                self._tried += len(self._text) - self._block
                self._awaited = len(self._text)
                return
            yield from self._say(self._text[self._position : self._block] + block.content)
            yield from (self._form.check(item, reading.tools) for item in block.items)
            self._speaks = self._speaks and (self._form.text_after_calls or not block.items)
            self._over = block.last
            self._spent += max(0, block.looked - block.end)
            self._position = self._searched = self._awaited = block.end
            self._block = -1
        self._speaks = self._speaks and not self._over
        end = len(self._text) if final else held_back(self._text, self._position, self._form.openers)
        yield from self._say(self._text[self._position : end])
        self._position = self._searched = max(end, self._position)

    def _find_block(self) -> bool:
        self._block, opener = first_of(self._text, self._searched, self._form.openers)
        self._awaited = self._block + len(opener)
        return self._block >= 0

    def _is_worth_reading(self) -> bool:
        """Whether a closer came since the last try, and the block was not read again too often."""
        closers = self._form.closers
        since = max(self._block, self._awaited - max(map(len, closers), default=0))
        if closers and first_of(self._text, since, closers)[0] < 0:
            return False
        return self._tried <= RETRY_BUDGET * len(self._text)

    def _say(self, text: str) -> Iterator[StreamEvent]:
        said = self._content.push(text) if self._speaks else ""
        if said:
            yield ContentDelta(said)
