"""Sampled ids as text in pieces, for a parser's stream: what is a marker only where its token was sampled stays so.

The same as SampledTokens does with a whole completion: ordinary tokens that spell a marker get a character of the
private use area into it, which `clean` takes out of what the parser found.
"""

from collections.abc import Sequence

from core.types import ToolCall
from tool_call_parsers.base import (
    ContentDelta,
    MalformedCall,
    ReasoningDelta,
    StreamEvent,
    ToolCallParser,
)
from tool_call_parsers.markers import held_back
from tool_call_parsers.reasoning import ReasoningFormat, Trim
from tool_call_parsers.streaming import ReasoningReader, Trimmer
from tool_call_parsers.tokens import PRIVATE_USE, Vocabulary, can_be_spoofed

LONGEST_CHARACTER = 8
"""Tokens that one character may take; what is no character after so many never becomes one."""


class GuardedText:
    """The text of one completion, while its ids come."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._spelled = sorted(filter(can_be_spoofed, set(vocabulary.markers.values())), key=len)
        self._window, self._read, self._known = list[int](), 0, ""
        self._pending = ""
        self._guard = ""

    def push(self, ids: Sequence[int]) -> str:
        """More of the text: all but the end of it that further ids may change."""
        return "".join(map(self._one, ids))

    def close(self) -> str:
        """What was held back."""
        self._pending += self._vocabulary.decode(self._window)[len(self._known) :] if self._window else ""
        self._window, self._read, self._known = [], 0, ""
        text, self._pending = self._guarded(), ""
        return text

    def clean(self, event: StreamEvent) -> StreamEvent:
        """What a parser found, as it was sampled."""
        guard = self._guard
        if not guard:
            return event
        if isinstance(event, ContentDelta | ReasoningDelta):
            return event._replace(text=event.text.replace(guard, ""))
        if isinstance(event, ToolCall):
            return _without(guard, event)
        call = event.call and _without(guard, event.call)
        return MalformedCall(
            text=event.text.replace(guard, ""), status=event.status, problem=event.problem.replace(guard, ""), call=call
        )

    def _one(self, index: int) -> str:
        marker = self._vocabulary.markers.get(index)
        if marker is None:
            return self._ordinary(index)
        text = self.close()
        self._window, self._read, self._known = [index], 1, self._vocabulary.decode([index])
        return text + marker

    def _ordinary(self, index: int) -> str:
        """Text that became certain: the tokens before are decoded along, because some decoders look back."""
        self._window.append(index)
        whole = self._vocabulary.decode(self._window)
        if whole.endswith("\ufffd") and len(self._window) - self._read < LONGEST_CHARACTER:
            return ""
        self._pending += whole[len(self._known) :]
        self._window = self._window[self._read :]
        self._read, self._known = len(self._window), self._vocabulary.decode(self._window)
        text = self._guarded()
        certain = held_back(text, 0, self._spelled)
        self._pending = text[certain:]
        return text[:certain]

    def _guarded(self) -> str:
        text = self._pending
        for marker in self._spelled:
            if marker in text:
                self._guard = self._guard or next(one for one in PRIVATE_USE if one not in text)
                text = text.replace(marker, marker[0] + self._guard + marker[1:])
        return text


class PlainStream:
    """A completion in which nothing is a call, because no tool was offered. Fulfils CompletionStream."""

    def __init__(self, form: ReasoningFormat, starts_in_reasoning: bool) -> None:
        self._reasoning: ReasoningReader | None = ReasoningReader(form, starts_in_reasoning, ())
        self._content = Trimmer(Trim.BOTH)
        self._text = ""

    def feed(self, text: str) -> list[StreamEvent]:
        """What more text brings."""
        return self._more(text, final=False)

    def close(self) -> list[StreamEvent]:
        """What is left when the text has ended."""
        return self._more("", final=True)

    def _more(self, text: str, final: bool) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        if self._reasoning is not None:
            self._text += text
            events, answer = self._reasoning.read(self._text, final)
            if answer is None:
                return events
            self._reasoning, self._text, text = None, "", answer
        said = self._content.push(text)
        return [*events, ContentDelta(said)] if said else events


class WholePlainStream:
    """The same for a format that splits a completion in a way of its own: it is read at the end."""

    def __init__(self, parser: ToolCallParser, starts_in_reasoning: bool) -> None:
        self._parser, self._starts_in_reasoning = parser, starts_in_reasoning
        self._pieces: list[str] = []

    def feed(self, text: str) -> list[StreamEvent]:
        """Nothing yet."""
        self._pieces.append(text)
        return []

    def close(self) -> list[StreamEvent]:
        """Everything."""
        text = "".join(self._pieces)
        parsed = self._parser.parse(text, (), starts_in_reasoning=self._starts_in_reasoning)
        if parsed.calls or parsed.malformed:
            return [ContentDelta(text)]
        events: list[StreamEvent] = [] if parsed.reasoning is None else [ReasoningDelta(parsed.reasoning)]
        return [*events, ContentDelta(parsed.content)] if parsed.content else events


def _without(guard: str, call: ToolCall) -> ToolCall:
    fields = {name: getattr(call, name).replace(guard, "") for name in ("id", "name", "arguments")}
    return ToolCall(**fields)
