"""One choice of a streamed chat: what has been told of it, and what a further chunk adds.

Ids become text, text goes through the parser's stream. Content and reasoning are told at once, except an end that may
become a marker; a call is told whole, as its block closes; what turned out to be no call is told at the end.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from core.types import FinishReason, JsonObject, Message, ToolCall
from tool_call_parsers.base import CompletionStream, ContentDelta, ReasoningDelta, StreamEvent
from tool_call_parsers.call_ids import CallIds
from tool_call_parsers.heard import GuardedText
from tool_call_parsers.streaming import joined
from tool_call_parsers.tokens import Vocabulary
from trainer.inference.base import TokenChunk
from trainer.inference.served import GrowingText

Logprobs = Callable[[Sequence[int], Sequence[float]], JsonObject | None]


class Heard(Protocol):
    """The text of a choice, while its tokens come."""

    def push(self, chunk: TokenChunk) -> str:
        """More of the text; all that is left with the last chunk."""
        ...

    def clean(self, event: StreamEvent) -> StreamEvent:
        """What a parser found in it, as it was sampled."""
        ...


class HeardTokens:
    """Text in which a marker is one only where its token was sampled."""

    def __init__(self, vocabulary: Vocabulary, eos_ids: Sequence[int]) -> None:
        self._text, self._eos_ids = GuardedText(vocabulary), frozenset(eos_ids)
        self.clean = self._text.clean

    def push(self, chunk: TokenChunk) -> str:
        ids = chunk.token_ids
        if chunk.finish_reason is None:
            return self._text.push(ids)
        said = ids[:-1] if ids and ids[-1] in self._eos_ids else ids
        return self._text.push(said) + self._text.close()


class HeardText:
    """Text up to a stop text."""

    def __init__(self, text: GrowingText) -> None:
        self._text, self._told = text, 0

    def push(self, chunk: TokenChunk) -> str:
        whole = self._text.push(chunk)
        new, self._told = whole[self._told :], max(self._told, len(whole))
        return new

    def clean(self, event: StreamEvent) -> StreamEvent:
        return event


class ChatStream:
    """Makes the `choices` entries of one choice."""

    def __init__(self, index: int, heard: Heard, parser: CompletionStream, ids: CallIds, logprobs: Logprobs) -> None:
        self._index, self._heard, self._parser, self._ids, self._logprobs = index, heard, parser, ids, logprobs
        self._found: list[StreamEvent] = []
        self._calls = 0
        self._started = False
        self._untold: tuple[list[int], list[float]] = ([], [])
        self.tokens = 0
        """Sampled so far."""

    def events(self, chunk: TokenChunk, *, return_token_ids: bool) -> list[JsonObject]:
        """`choices` entries: a role first, then deltas, last the finish reason."""
        self.tokens += len(chunk.token_ids)
        self._untold[0].extend(chunk.token_ids)
        self._untold[1].extend(chunk.logprobs)
        deltas: list[JsonObject] = [] if self._started else [{"role": "assistant", "content": ""}]
        self._started = True
        text = self._heard.push(chunk)
        deltas += self._deltas(self._parser.feed(text) if text else [])
        if chunk.finish_reason is None:
            return [self._event(delta, None, return_token_ids) for delta in deltas]
        deltas += self._deltas(self._parser.close())
        message = joined(self._found).message()
        deltas += self._rest(message)
        reason = finish_reason(message, chunk.finish_reason)
        return [*(self._event(delta, None, return_token_ids) for delta in deltas), self._event({}, reason, return_token_ids)]

    def _deltas(self, found: Sequence[StreamEvent]) -> list[JsonObject]:
        """What of this can be told already."""
        deltas: list[JsonObject] = []
        for event in map(self._heard.clean, found):
            if isinstance(event, ToolCall):
                event = self._ids.own(event)
                deltas.append(self._call(event))
            elif isinstance(event, ReasoningDelta):
                if event.text:
                    deltas.append({"reasoning_content": event.text})
            elif isinstance(event, ContentDelta):
                deltas.append({"content": event.text})
            elif event.call is not None:
                event = event.model_copy(update={"call": self._ids.own(event.call)})
            self._found.append(event)
        return deltas

    def _rest(self, message: Message) -> list[JsonObject]:
        """What is told at the end only: broken blocks as text, then well-formed calls that cannot be made."""
        told = "".join(event.text for event in self._found if isinstance(event, ContentDelta))
        more = message.content[len(told) :]
        calls = [self._call(call) for call in message.tool_calls[self._calls :]]
        content: list[JsonObject] = [{"content": more}] if more else []
        return [*content, *calls]

    def _call(self, call: ToolCall) -> JsonObject:
        index, self._calls = self._calls, self._calls + 1
        function: JsonObject = {"name": call.name, "arguments": call.arguments}
        return {"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]}

    def _event(self, delta: JsonObject, reason: str | None, return_token_ids: bool) -> JsonObject:
        """One entry; it carries the logprobs and ids of all tokens since the last one."""
        ids, logprobs = self._untold
        self._untold = ([], [])
        event: JsonObject = {"index": self._index, "delta": delta, "finish_reason": reason}
        event["logprobs"] = self._logprobs(ids, logprobs) if ids else None
        if return_token_ids:
            event["token_ids"] = list(ids)
        return event


def finish_reason(message: Message, reason: FinishReason) -> str:
    """OpenAI's word for why a turn ended."""
    return FinishReason.TOOL_CALLS.value if message.tool_calls and reason is FinishReason.STOP else reason.value
