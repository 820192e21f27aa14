"""POST /v1/chat/completions: messages and tools in, a message with tool calls out, token-exact on request."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response

from core.types import JsonObject, TokenIds
from tool_call_parsers.base import ParsedCompletion
from tool_call_parsers.call_ids import CallIds, with_own_ids
from tool_call_parsers.streaming import joined
from trainer.inference.base import Generation, TokenConstraint
from trainer.inference.bodies import ChatBody, requests_of
from trainer.inference.chat_stream import ChatStream, HeardText, HeardTokens, finish_reason
from trainer.inference.constraints import ANY_OBJECT, AllowedCall, Demand
from trainer.inference.http_answers import JsonAnswer, event_stream, read_body, while_connected
from trainer.inference.served import GrowingText, Served, spans, token_counts, usage


class ChatTurn:
    """One chat request, ready to be sampled and to have its completions read."""

    def __init__(self, served: Served, body: ChatBody) -> None:
        served.check_model(body.model)
        self.served, self.body, self.tools = served, body, body.offered
        messages = [message.message() for message in body.messages]
        self.prompt_ids: TokenIds = tuple(served.renderer.render(messages, self.tools))
        self._taken = {call.id for message in messages for call in message.tool_calls}
        max_tokens = body.max_completion_tokens or body.max_tokens or served.engine.max_length
        self.params = body.params(max_tokens, served.renderer.eos_ids)
        self.constraint = self._constraint()
        self.requests = requests_of(self.prompt_ids, self.params, body.choices, body, self.constraint)

    def parse(self, token_ids: Sequence[int]) -> ParsedCompletion:
        """What was said. Without tools on offer, what looks like a call is text."""
        reader = self.served.reader
        if not self.params.stop:
            return reader.read(self.prompt_ids, token_ids, self.tools, self._taken)
        stream = reader.stream(self.prompt_ids, self.tools)
        said = joined([*stream.feed(self.served.text(token_ids, self.params.stop)), *stream.close()])
        return with_own_ids(said, self._taken)

    def logprobs(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> JsonObject | None:
        """OpenAI's `logprobs` of sampled tokens, where they were asked for."""
        if not self.body.logprobs:
            return None
        entries: list[JsonValue] = [
            {"token": self.served.renderer.decode([token]), "logprob": logprob, "bytes": None, "top_logprobs": []}
            for token, logprob in zip(token_ids, logprobs, strict=True)
        ]
        return {"content": entries, "refusal": None}

    async def answer(self) -> JsonObject:
        """The whole answer at once."""
        generations = await self.served.generate(self.requests)
        choices: list[JsonValue] = [self._choice(index, one) for index, one in enumerate(generations)]
        answer: JsonObject = {
            **self.served.head("chatcmpl", "chat.completion"),
            "choices": choices,
            "usage": usage(len(self.prompt_ids), generations),
            "policy_version": min(one.policy_version for one in generations),
        }
        if self.body.return_token_ids:
            answer["prompt_token_ids"] = list(self.prompt_ids)
        return answer

    async def events(self) -> AsyncGenerator[JsonObject, None]:
        """The chunks of a streamed answer."""
        head = self.served.head("chatcmpl", "chat.completion.chunk")
        choices = [self._stream(index) for index in range(len(self.requests))]
        noted: JsonObject = {"constrained": True} if self.constraint is not None else {}
        async with aclosing(self.served.stream(self.requests)) as chunks:
            async for index, chunk in chunks:
                for choice in choices[index].events(chunk, return_token_ids=self.body.return_token_ids):
                    yield {**head, "choices": [choice | noted], "policy_version": chunk.policy_version}
        if self.body.include_usage:
            tokens = sum(choice.tokens for choice in choices)
            yield {**head, "choices": [], "usage": token_counts(len(self.prompt_ids), tokens)}

    def _stream(self, index: int) -> ChatStream:
        renderer, stop = self.served.renderer, self.params.stop
        heard = HeardText(GrowingText(self.served, stop)) if stop else HeardTokens(renderer.vocabulary, renderer.eos_ids)
        parser = self.served.reader.stream(self.prompt_ids, self.tools)
        return ChatStream(index, heard, parser, CallIds(self._taken), self.logprobs)

    def _choice(self, index: int, generation: Generation) -> JsonObject:
        message = self.parse(generation.token_ids).message()
        choice: JsonObject = {
            "index": index,
            "message": {**message.to_openai(), "content": message.content or None},
            "logprobs": self.logprobs(generation.token_ids, generation.logprobs),
            "finish_reason": finish_reason(message, generation.finish_reason),
        }
        if self.constraint is not None:
            choice["constrained"] = True
        exact: JsonObject = {"token_ids": list(generation.token_ids), "weight_versions": spans(generation)}
        return choice | (exact if self.body.return_token_ids else {})

    def _constraint(self) -> Callable[[], TokenConstraint] | None:
        """What masks the sampling: of a turn that must call a tool, and of arguments that must fit a strict schema."""
        functions = self.body.demanded if self.tools else ()
        if not (self.body.must_call or any(one.strict for one in functions)):
            return None
        calls = [AllowedCall(one.name, one.parameters if one.strict else ANY_OBJECT) for one in self.body.demanded]
        demand = Demand(calls, required=self.body.must_call, parallel=self.body.parallel_tool_calls is not False)
        return self.served.constrainer.constraint(demand, self.prompt_ids)


async def chat_completions(request: Request) -> Response:
    """The route."""
    turn = ChatTurn(request.app.state.served, await read_body(request, ChatBody))
    if turn.body.stream:
        return await event_stream(request, turn.events())
    return JsonAnswer(await while_connected(request, turn.answer()))
