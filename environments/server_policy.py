"""A policy that is an OpenAI-compatible server: it renders the messages and finds the tool calls itself.

For SFT data, evaluation and tests against any model. Where the server returns token ids and logprobs they are kept.
"""

import json
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple
from uuid import uuid4

from pydantic import JsonValue, SecretStr

from core.types import FinishReason, Floats, JsonObject, TokenIds, ToolCall, ToolSpec
from environments.completion_client import CompletionClient, NoCompletion
from environments.policy import Completion, CompletionRequest, Load, PolicyConfig, Usage
from tool_call_parsers.base import CallStatus, MalformedCall, ParsedCompletion
from tool_call_parsers.rendering import history
from tool_call_parsers.schemas import check_call


class ServerPolicy:
    """Phase 1: `/v1/chat/completions` with native tool calls."""

    def __init__(self, config: PolicyConfig, client: CompletionClient) -> None:
        self._config, self._client = config, client

    async def complete(self, request: CompletionRequest) -> Completion:
        """The next turn; see Policy."""
        body, tools = self._body(request), request.task.tools
        return await self._client.post("/v1/chat/completions", body, lambda answer: _read(answer, tools), request.waits)

    def load(self) -> Load:
        """See HasLoad."""
        return self._client.load()

    async def aclose(self) -> None:
        await self._client.aclose()

    def _body(self, request: CompletionRequest) -> JsonObject:
        config = self._config
        body: JsonObject = {
            "model": config.model,
            "messages": [message.to_openai() for message in history(request.task.messages, request.turns)],
            "temperature": config.temperature,
            "top_p": config.top_p,
            "max_tokens": config.max_tokens_per_turn,
        }
        if request.task.tools:
            body["tools"] = _offered(request.task.tools)
        if config.return_token_ids:
            body.update({"return_token_ids": True, "logprobs": True})
        return body


def open_server_policy(config: PolicyConfig, api_token: SecretStr | None = None) -> ServerPolicy:
    """The policy of a configuration of kind `server`."""
    return ServerPolicy(config, CompletionClient(config, api_token))


class _Tokens(NamedTuple):
    prompt: TokenIds = ()
    completion: TokenIds = ()
    logprobs: Floats = ()


def _read(answer: JsonObject, tools: Sequence[ToolSpec]) -> Completion:
    """The completion in an answer. Raises NoCompletion where there is none."""
    choice = _choice(answer)
    parsed = _parsed(choice.get("message"), tools)
    tokens = _tokens(answer, choice)
    version = answer.get("policy_version")
    return Completion(
        message=parsed.message(),
        malformed=parsed.malformed,
        finish_reason=_finish_reason(choice.get("finish_reason"), parsed),
        constrained=choice.get("constrained") is True,
        prompt_ids=tokens.prompt,
        completion_ids=tokens.completion,
        logprobs=tokens.logprobs,
        policy_version=version if isinstance(version, int) else 0,
        usage=_usage(answer.get("usage")),
    )


def _usage(found: JsonValue) -> Usage | None:
    counts = [found.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(found, dict) else []
    told = [count for count in counts if isinstance(count, int) and count >= 0]
    return Usage(*told) if len(told) == 2 else None


def _offered(tools: Sequence[ToolSpec]) -> list[JsonValue]:
    return [tool.to_openai() for tool in tools]


def _choice(answer: JsonObject) -> JsonObject:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise NoCompletion(f"/v1/chat/completions: the answer has no choices: {str(answer)[:200]}")
    return choices[0]


def _parsed(message: JsonValue, tools: Sequence[ToolSpec]) -> ParsedCompletion:
    if not isinstance(message, dict):
        raise NoCompletion("/v1/chat/completions: the choice has no message")
    content, found = message.get("content"), message.get("tool_calls")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    calls = _distinct([_call(call) for call in found] if isinstance(found, list) else [])
    checked = [check_call(call, tools) or call for call in calls]
    return ParsedCompletion(
        content=content if isinstance(content, str) else "",
        reasoning=reasoning if isinstance(reasoning, str) else None,
        calls=tuple(one for one in checked if isinstance(one, ToolCall)),
        malformed=tuple(_speakable(one) for one in checked if isinstance(one, MalformedCall)),
    )


def _call(data: JsonValue) -> ToolCall:
    function = data.get("function") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(function, dict):
        raise NoCompletion(f"/v1/chat/completions: not a tool call: {str(data)[:200]}")
    name, arguments, given = function.get("name"), function.get("arguments"), data.get("id")
    return ToolCall(
        id=given if isinstance(given, str) and given else f"call_{uuid4().hex}",
        name=name if isinstance(name, str) else "",
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
    )


def _distinct(calls: Sequence[ToolCall]) -> list[ToolCall]:
    """Calls with ids of their own: a repeated id would leave open which call an answer belongs to."""
    seen: dict[str, ToolCall] = {}
    for call in calls:
        one = call.model_copy(update={"id": f"call_{uuid4().hex}"}) if call.id in seen else call
        seen[one.id] = one
    return list(seen.values())


def _speakable(bad: MalformedCall) -> MalformedCall:
    """A call that servers accept in a conversation: arguments that are not JSON are text, not a call."""
    if bad.status is not CallStatus.BAD_JSON or bad.call is None:
        return bad
    return bad.model_copy(update={"call": None, "text": f"{bad.call.name}({bad.call.arguments})"})


def _finish_reason(found: JsonValue, parsed: ParsedCompletion) -> FinishReason:
    if found == "length":
        return FinishReason.LENGTH
    return FinishReason.TOOL_CALLS if parsed.calls else FinishReason.STOP


def _tokens(answer: JsonObject, choice: JsonObject) -> _Tokens:
    """Prompt ids, completion ids and logprobs, where the server returns all three; nothing where it does not."""
    prompt = choice.get("prompt_token_ids", answer.get("prompt_token_ids"))
    completion, logprobs = choice.get("token_ids"), choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not (isinstance(prompt, list) and isinstance(completion, list) and isinstance(content, list)):
        return _Tokens()
    if len(content) != len(completion):
        raise NoCompletion(f"/v1/chat/completions: {len(completion)} token_ids but {len(content)} logprobs")
    try:
        found = tuple(float(entry["logprob"]) for entry in content)  # type: ignore[index,call-overload,arg-type]
        tokens = _Tokens(tuple(map(int, prompt)), tuple(map(int, completion)), found)  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError) as error:
        raise NoCompletion("/v1/chat/completions: token ids or logprobs that are no numbers") from error
    if min((*tokens.prompt, *tokens.completion), default=0) < 0 or not all(map(isfinite, found)):
        raise NoCompletion("/v1/chat/completions: a token id below zero, or a logprob that is not finite")
    return tokens
