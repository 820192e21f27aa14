"""What every route needs: the engine, the way to text and back, and the names that answers carry."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from pydantic import JsonValue

from core.clock import Clock, SystemClock
from core.errors import NatgymError
from core.types import JsonObject
from tool_call_parsers.reader import CompletionReader
from tool_call_parsers.rendering import Renderer
from trainer.inference.base import Generation, GenerationRequest, InferenceEngine, TokenChunk, UnusableRequest
from trainer.inference.constraints import Constrainer

DEFAULT_MAX_TOKENS = 16  # as OpenAI's and vLLM's, of completions without a chat


class UnknownModel(UnusableRequest):
    """A model that this server does not serve."""


@dataclass(frozen=True)
class Served:
    """One model behind one engine."""

    engine: InferenceEngine
    reader: CompletionReader
    constrainer: Constrainer
    model_id: str
    model_path: str
    clock: Clock = field(default_factory=SystemClock)

    @property
    def renderer(self) -> Renderer:
        """The tokenizer with its chat template."""
        return self.reader.renderer

    def check_model(self, model: str | None) -> None:
        """Raises UnknownModel; no model at all means ours."""
        if model is not None and model != self.model_id:
            raise UnknownModel(f"no model {model!r}; this server serves {self.model_id!r}")

    def head(self, prefix: str, kind: str) -> JsonObject:
        """First fields of an answer or of a chunk."""
        created = int(self.clock.now())
        return {"id": f"{prefix}-{uuid4().hex}", "object": kind, "created": created, "model": self.model_id}

    def text(self, token_ids: Sequence[int], stops: Sequence[str]) -> str:
        """The text of a completion, without its end-of-turn token and from a stop text on."""
        text = self.renderer.decode(self.renderer.without_eos(token_ids))
        cuts = [at for at in (text.find(stop) for stop in stops) if at >= 0]
        return text[: min(cuts)] if cuts else text

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """All of them; the first failure cancels the rest and is raised."""
        if len(requests) == 1:
            return [await self.engine.generate(requests[0])]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self.engine.generate(request)) for request in requests]
        except ExceptionGroup as group:
            raise _first(group) from None
        return [task.result() for task in running]

    async def stream(self, requests: Sequence[GenerationRequest]) -> AsyncGenerator[tuple[int, TokenChunk], None]:
        """(choice, chunk) of all of them as they come; raises the first failure."""
        arrived: asyncio.Queue[tuple[int, TokenChunk | NatgymError]] = asyncio.Queue()

        async def pump(choice: int, request: GenerationRequest) -> None:
            try:
                async for chunk in self.engine.stream(request):
                    arrived.put_nowait((choice, chunk))
            except NatgymError as error:
                arrived.put_nowait((choice, error))

        pumps = [asyncio.create_task(pump(choice, request)) for choice, request in enumerate(requests)]
        try:
            left = len(requests)
            while left:
                choice, chunk = await arrived.get()
                if isinstance(chunk, NatgymError):
                    raise chunk
                left -= chunk.finish_reason is not None
                yield choice, chunk
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


def usage(prompt_tokens: int, generations: Sequence[Generation]) -> JsonObject:
    """OpenAI's `usage` of one prompt and its completions."""
    completion_tokens = sum(len(one.token_ids) for one in generations)
    cached = min((one.cached_tokens for one in generations), default=0)
    return {**token_counts(prompt_tokens, completion_tokens), "prompt_tokens_details": {"cached_tokens": cached}}


def token_counts(prompt_tokens: int, completion_tokens: int) -> JsonObject:
    """The three counts of OpenAI's `usage`."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def spans(generation: Generation) -> list[JsonValue]:
    """Which policy version sampled which completion tokens, as vLLM and SGLang write it."""
    return [{"version": span.version, "start": span.start, "end": span.end} for span in generation.spans]


class GrowingText:
    """The text of a stream of token ids, held back where more tokens could still change its end."""

    def __init__(self, served: Served, stops: Sequence[str]) -> None:
        self._served, self._stops = served, stops
        self._held = max((len(stop) for stop in stops), default=1) - 1
        self.ids: list[int] = []

    def push(self, chunk: TokenChunk) -> str:
        """The text so far; the whole text with the last chunk."""
        self.ids += chunk.token_ids
        text = self._served.text(self.ids, self._stops)
        if chunk.finish_reason is not None:
            return text
        text = text[: len(text) - self._held]
        return text.rstrip("\ufffd")  # bytes of a character whose other bytes are still to come


def _first(group: BaseExceptionGroup) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
