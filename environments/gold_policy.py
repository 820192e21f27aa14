"""A policy that plays completions which are known beforehand: gold answers, or those of a scripted expert.

They pass through the same parser, tools and sandbox as sampled ones. With a renderer they also get the token ids
that a model would have sampled, with logprobs of 0.0: each was certain.
"""

from collections.abc import Callable, Sequence

from core.types import FinishReason, Message, Role, Task
from environments.policy import Completion, CompletionRequest
from environments.token_policy import Reader
from tool_call_parsers.base import PARSERS, ParsedCompletion
from tool_call_parsers.rendering import Renderer

Script = Callable[[Task], Sequence[str]]


class GoldPolicy:
    """Plays `script(task)`, one completion a turn; after the last one it says nothing, which ends the episode."""

    def __init__(self, script: Script, renderer: Renderer | None = None, parser: str = "hermes") -> None:
        self._script, self._parser = script, PARSERS.load(parser)()
        self._reader = Reader(renderer, self._parser) if renderer is not None else None

    async def complete(self, request: CompletionRequest) -> Completion:
        """The next turn; see Policy."""
        script = self._script(request.task)
        if len(request.turns) >= len(script):
            return Completion(message=Message(role=Role.ASSISTANT))
        text = script[len(request.turns)]
        if self._reader is None:
            return _completion(self._parser.parse(text, request.task.tools))
        renderer = self._reader.renderer
        prompt, ids = self._reader.prompt(request), (*renderer.encode(text), renderer.eos_ids[0])
        parsed = self._reader.read(prompt, ids, request)
        return _completion(parsed, prompt_ids=prompt, completion_ids=ids, logprobs=(0.0,) * len(ids))

    async def aclose(self) -> None:
        """Nothing is open."""


def _completion(parsed: ParsedCompletion, **tokens: tuple[int, ...] | tuple[float, ...]) -> Completion:
    finish = FinishReason.TOOL_CALLS if parsed.calls else FinishReason.STOP
    return Completion(message=parsed.message(), malformed=parsed.malformed, finish_reason=finish, **tokens)  # type: ignore[arg-type]
