"""Sampled ids to a message: a renderer and a parser together."""

from collections.abc import Iterable, Sequence

from core.types import ToolSpec
from tool_call_parsers.base import CompletionStream, ParsedCompletion, ToolCallParser
from tool_call_parsers.call_ids import with_own_ids
from tool_call_parsers.grammar import BlockFormat
from tool_call_parsers.heard import GuardedText, PlainStream, WholePlainStream
from tool_call_parsers.reasoning import ReasoningFormat
from tool_call_parsers.renderer import Renderer
from tool_call_parsers.streaming import joined

PROMPT_TAIL = 16
"""Ids; enough to see that the prompt opened a reasoning block."""
ANY_THINKING = ReasoningFormat("any")


class CompletionReader:
    """Reads completions of one model. Holds no conversation."""

    def __init__(self, renderer: Renderer, parser: ToolCallParser) -> None:
        self.renderer, self.parser = renderer, parser
        self._splits_itself = not isinstance(parser, BlockFormat)
        own = getattr(parser, "reasoning", None)
        self.reasoning = own if isinstance(own, ReasoningFormat) else ANY_THINKING

    def starts_in_reasoning(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt ends inside of a reasoning block."""
        return self.reasoning.opens(self.renderer.decode(prompt_ids[-PROMPT_TAIL:]))

    def read(
        self,
        prompt_ids: Sequence[int],
        completion_ids: Sequence[int],
        tools: Sequence[ToolSpec] = (),
        taken: Iterable[str] = (),
    ) -> ParsedCompletion:
        """What was said; only special tokens are markers, and without tools nothing is a call.

        No call has an id that is `taken`, or that of another call.
        """
        if not tools:
            return self._heard(completion_ids, self.stream(prompt_ids))
        inside = self.starts_in_reasoning(prompt_ids)
        parsed = self.parser.parse(self.renderer.sampled(completion_ids), tools, starts_in_reasoning=inside)
        return with_own_ids(parsed, taken)

    def stream(self, prompt_ids: Sequence[int], tools: Sequence[ToolSpec] = ()) -> CompletionStream:
        """The same in pieces of text; see GuardedText for where those come from."""
        inside = self.starts_in_reasoning(prompt_ids)
        if tools:
            return self.parser.stream(tools, starts_in_reasoning=inside)
        return WholePlainStream(self.parser, inside) if self._splits_itself else PlainStream(self.reasoning, inside)

    def _heard(self, completion_ids: Sequence[int], stream: CompletionStream) -> ParsedCompletion:
        text = GuardedText(self.renderer.vocabulary)
        said = text.push(self.renderer.without_eos(completion_ids)) + text.close()
        return joined([text.clean(event) for event in (*stream.feed(said), *stream.close())])
