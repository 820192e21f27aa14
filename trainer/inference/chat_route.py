"""POST /v1/chat/completions: messages and tools in, a message with tool calls out, token-exact on request."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.types import FinishReason, JsonObject, Message, Role, TokenIds
from tool_call_parsers.base import ParsedCompletion
from trainer.inference.base import Generation, TokenChunk
from trainer.inference.bodies import ChatBody, requests_of
from trainer.inference.http_answers import event_stream, read_body, while_connected
from trainer.inference.served import GrowingText, Served, spans, token_counts, usage

REASONING_OPENER = "<think>"
PROMPT_TAIL = 8  # ids; enough to see that the prompt opened a reasoning block
OPEN_TAG = 16  # characters; a longer `<...` at the end of a text begins no marker


class ChatTurn:
    """One chat request, ready to be sampled and to have its completions read."""

    def __init__(self, served: Served, body: ChatBody) -> None:
        served.check_model(body.model)
        self.served, self.body, self.tools = served, body, body.offered
        messages = [message.message() for message in body.messages]
        self.prompt_ids: TokenIds = tuple(served.renderer.render(messages, self.tools))
        max_tokens = body.max_completion_tokens or body.max_tokens or served.engine.max_length
        self.params = body.params(max_tokens, served.renderer.eos_ids)
        self.requests = requests_of(self.prompt_ids, self.params, body.choices, body.session_id)
        tail = served.renderer.decode(self.prompt_ids[-PROMPT_TAIL:])
        self._in_reasoning = tail.rstrip().endswith(REASONING_OPENER)

    def parse(self, text: str) -> ParsedCompletion:
        """What was said. Without tools on offer, what looks like a call is text."""
        parsed = self.served.parser.parse(text, self.tools, starts_in_reasoning=self._in_reasoning)
        if not self.tools and (parsed.calls or parsed.malformed):
            return ParsedCompletion(content=text)
        return parsed

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
        choices = [ChatStream(self, index) for index in range(len(self.requests))]
        async with aclosing(self.served.stream(self.requests)) as chunks:
            async for index, chunk in chunks:
                for choice in choices[index].events(chunk):
                    yield {**head, "choices": [choice], "policy_version": chunk.policy_version}
        if self.body.include_usage:
            tokens = sum(len(choice.text.ids) for choice in choices)
            yield {**head, "choices": [], "usage": token_counts(len(self.prompt_ids), tokens)}

    def _choice(self, index: int, generation: Generation) -> JsonObject:
        parsed = self.parse(self.served.text(generation.token_ids, self.params.stop))
        message = parsed.message()
        choice: JsonObject = {
            "index": index,
            "message": {**message.to_openai(), "content": message.content or None},
            "logprobs": self.logprobs(generation.token_ids, generation.logprobs),
            "finish_reason": finish_reason(message, generation.finish_reason),
        }
        exact: JsonObject = {"token_ids": list(generation.token_ids), "weight_versions": spans(generation)}
        return choice | (exact if self.body.return_token_ids else {})


class ChatStream:
    """What has been told of one choice, and what a further chunk adds to it.

    The text is parsed anew with every chunk. Reasoning and content are told as far as they only grow, calls once
    they are complete; what looks like the begin of a marker waits.
    """

    def __init__(self, turn: ChatTurn, index: int) -> None:
        self._turn, self._index = turn, index
        self.text = GrowingText(turn.served, turn.params.stop)
        self._told = Message(role=Role.ASSISTANT)
        self._started = False
        self._untold: tuple[list[int], list[float]] = ([], [])

    def events(self, chunk: TokenChunk) -> list[JsonObject]:
        """`choices` entries: a role first, then deltas, last the finish reason."""
        text = self.text.push(chunk)
        self._untold[0].extend(chunk.token_ids)
        self._untold[1].extend(chunk.logprobs)
        done = chunk.finish_reason is not None
        parsed = self._turn.parse(text if done else _without_open_tag(text))
        # half a call is not yet malformed
        message = parsed.message() if done else parsed.model_copy(update={"malformed": ()}).message()
        deltas = self._news(message)
        if not self._started:
            deltas.insert(0, {"role": "assistant", "content": ""})
            self._started = True
        events = [self._event(delta, None) for delta in deltas]
        if chunk.finish_reason is not None:
            events.append(self._event({}, finish_reason(message, chunk.finish_reason)))
        return events

    def _news(self, message: Message) -> list[JsonObject]:
        """Deltas from what was told to what is known."""
        told, deltas = self._told, list[JsonObject]()
        reasoning = _growth(told.reasoning or "", message.reasoning or "")
        content = _growth(told.content, message.content)
        if reasoning:
            deltas.append({"reasoning_content": reasoning})
        if content:
            deltas.append({"content": content})
        for index, call in enumerate(message.tool_calls[len(told.tool_calls) :], start=len(told.tool_calls)):
            function: JsonObject = {"name": call.name, "arguments": call.arguments}
            deltas.append({"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": function}]})
        self._told = Message(
            role=Role.ASSISTANT,
            content=told.content + content,
            reasoning=(told.reasoning or "") + reasoning,
            tool_calls=(*told.tool_calls, *message.tool_calls[len(told.tool_calls) :]),
        )
        return deltas

    def _event(self, delta: JsonObject, reason: str | None) -> JsonObject:
        """One entry; it carries the logprobs and ids of all tokens since the last one."""
        ids, logprobs = self._untold
        self._untold = ([], [])
        event: JsonObject = {"index": self._index, "delta": delta, "finish_reason": reason}
        event["logprobs"] = self._turn.logprobs(ids, logprobs) if ids else None
        if self._turn.body.return_token_ids:
            event["token_ids"] = list(ids)
        return event


async def chat_completions(request: Request) -> Response:
    """The route."""
    turn = ChatTurn(request.app.state.served, await read_body(request, ChatBody))
    if turn.body.stream:
        return await event_stream(request, turn.events())
    return JSONResponse(await while_connected(request, turn.answer()))


def finish_reason(message: Message, reason: FinishReason) -> str:
    """OpenAI's word for why a turn ended."""
    return FinishReason.TOOL_CALLS.value if message.tool_calls and reason is FinishReason.STOP else reason.value


def _growth(told: str, known: str) -> str:
    """What has to be added; nothing where the new text is no continuation of the old one."""
    return known[len(told) :] if known.startswith(told) else ""


def _without_open_tag(text: str) -> str:
    start = text.rfind("<", max(0, len(text) - OPEN_TAG))
    return text if start < 0 or ">" in text[start:] else text[:start]
