"""POST /v1/completions: text or token ids in, text and token ids out, without any template."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import accumulate

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from core.types import JsonObject, TokenIds
from trainer.inference.base import Generation, UnusableRequest
from trainer.inference.bodies import CompletionBody, requests_of
from trainer.inference.http_answers import JsonAnswer, event_stream, read_body, while_connected
from trainer.inference.served import DEFAULT_MAX_TOKENS, GrowingText, Served, spans, token_counts, usage


class TextCompletion:
    """One request for completions, `n` for each of its prompts; choice i belongs to prompt i // n."""

    def __init__(self, served: Served, body: CompletionBody) -> None:
        served.check_model(body.model)
        self.served, self.body = served, body
        self.params = body.params(body.max_tokens or DEFAULT_MAX_TOKENS, served.renderer.eos_ids)
        self.prompts = [self._ids(prompt) for prompt in body.prompts]
        self.requests = [one for ids in self.prompts for one in requests_of(ids, self.params, body.choices, body)]
        if not self.requests:
            raise UnusableRequest("prompt is empty")

    async def answer(self) -> JsonObject:
        """The whole answer at once."""
        generations = await self.served.generate(self.requests)
        return {
            **self.served.head("cmpl", "text_completion"),
            "choices": [self._choice(index, one) for index, one in enumerate(generations)],
            "usage": usage(self._prompt_tokens, generations),
            "policy_version": min(one.policy_version for one in generations),
        }

    async def events(self) -> AsyncGenerator[JsonObject, None]:
        """The chunks of a streamed answer."""
        head = self.served.head("cmpl", "text_completion")
        texts = [GrowingText(self.served, self.params.stop) for _ in self.requests]
        told = [0] * len(texts)
        async with aclosing(self.served.stream(self.requests)) as chunks:
            async for index, chunk in chunks:
                text = texts[index].push(chunk)
                news, told[index] = text[told[index] :], max(told[index], len(text))
                reason = chunk.finish_reason.value if chunk.finish_reason else None
                choice: JsonObject = {"index": index, "text": news, "finish_reason": reason}
                choice["logprobs"] = self._logprobs(chunk.token_ids, chunk.logprobs)
                if self.body.return_token_ids:
                    choice["token_ids"] = list(chunk.token_ids)
                yield {**head, "choices": [choice], "policy_version": chunk.policy_version}
        if self.body.include_usage:
            tokens = sum(len(text.ids) for text in texts)
            yield {**head, "choices": [], "usage": token_counts(self._prompt_tokens, tokens)}

    @property
    def _prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    def _ids(self, prompt: str | TokenIds) -> TokenIds:
        return tuple(self.served.renderer.encode(prompt)) if isinstance(prompt, str) else prompt

    def _choice(self, index: int, generation: Generation) -> JsonObject:
        choice: JsonObject = {
            "index": index,
            "text": self.served.text(generation.token_ids, self.params.stop),
            "logprobs": self._logprobs(generation.token_ids, generation.logprobs),
            "finish_reason": generation.finish_reason.value,
        }
        exact: JsonObject = {
            "prompt_token_ids": list(self.prompts[index // self.body.choices]),
            "token_ids": list(generation.token_ids),
            "weight_versions": spans(generation),
        }
        return choice | (exact if self.body.return_token_ids else {})

    def _logprobs(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> JsonObject | None:
        if self.body.logprobs is None:
            return None
        tokens = [self.served.renderer.decode([token]) for token in token_ids]
        offsets: list[JsonValue] = list(accumulate(map(len, tokens[:-1]), initial=0))
        values: list[JsonValue] = list(logprobs)
        return {"tokens": list(tokens), "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}


async def completions(request: Request) -> Response:
    """The route."""
    completion = TextCompletion(request.app.state.served, await read_body(request, CompletionBody))
    if completion.body.stream:
        return await event_stream(request, completion.events())
    return JsonAnswer(await while_connected(request, completion.answer()))
