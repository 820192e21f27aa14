"""A policy in tokens: what is sampled is what is learnt from, id by id.

Speaks SGLang's `POST /generate`: token ids in, token ids and logprobs out. The conversation is rendered and extended
here, and tool calls are found by our own parser.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import isfinite
from operator import itemgetter
from typing import Any, NamedTuple

from pydantic import JsonValue, SecretStr

from core.types import FinishReason, Floats, JsonObject, Task, TokenIds
from environments.completion_client import CompletionClient, NoCompletion
from environments.policy import Completion, CompletionRequest, Load, OutOfTokens, PolicyConfig
from tool_call_parsers.base import PARSERS, ParsedCompletion, ToolCallParser
from tool_call_parsers.reader import CompletionReader
from tool_call_parsers.rendering import Renderer, ThinkingRetention, TokenSession, history

MAX_OPENED = 64
"""Tasks whose first prompt is kept for the other episodes of their groups."""


class Reader:
    """Prompts and completions of episodes, between messages and token ids."""

    def __init__(
        self, renderer: Renderer, parser: ToolCallParser, retention: ThinkingRetention = ThinkingRetention.TEMPLATE
    ) -> None:
        self.renderer, self._retention = renderer, retention
        self._opened = OrderedDict[int, tuple[Task, TokenIds]]()
        self._reader = CompletionReader(renderer, parser)

    def prompt(self, request: CompletionRequest) -> TokenIds:
        """The prompt of the next turn of an episode."""
        task, session = request.task, TokenSession(self.renderer, request.task.tools, self._retention)
        if request.turns:
            return session.next(task.messages, request.turns)
        known = self._opened.get(id(task))
        if known is None or known[0] is not task:  # an id is that of the next object once its own is gone
            known = self._opened[id(task)] = (task, session.first(task.messages))
            if len(self._opened) > MAX_OPENED:
                self._opened.popitem(last=False)
        return known[1]

    def read(self, prompt_ids: Sequence[int], completion_ids: Sequence[int], request: CompletionRequest) -> ParsedCompletion:
        """What was said in sampled ids; each call has an id of its own in the conversation."""
        said = history(request.task.messages, request.turns)
        taken = {call.id for message in said for call in message.tool_calls}
        return self._reader.read(prompt_ids, completion_ids, request.task.tools, taken)


class TokenPolicy:
    """Phase 2: tokens and logprobs from a server, everything else here."""

    def __init__(self, config: PolicyConfig, client: CompletionClient, reader: Reader) -> None:
        self._config, self._client, self._reader = config, client, reader

    async def complete(self, request: CompletionRequest) -> Completion:
        """The next turn; see Policy. Raises OutOfTokens where the conversation has reached `max_tokens`."""
        prompt = self._reader.prompt(request)
        room = min(self._config.max_tokens_per_turn, self._config.max_tokens - len(prompt))
        if room < 1:
            raise OutOfTokens
        body, vocab_size = self._body(request.episode_id, prompt, room), self._reader.renderer.vocab_size
        sampled = await self._client.post("/generate", body, lambda answer: _read_answer(answer, vocab_size), request.waits)
        return self._completion(prompt, sampled, request)

    def load(self) -> Load:
        """See HasLoad."""
        return self._client.load()

    async def aclose(self) -> None:
        await self._client.aclose()

    def _body(self, episode_id: str, prompt: TokenIds, room: int) -> JsonObject:
        return {
            "input_ids": list(prompt),
            "sampling_params": {
                "max_new_tokens": room,
                "temperature": self._config.temperature,
                "top_p": self._config.top_p,
                "stop_token_ids": list(self._reader.renderer.eos_ids),
            },
            "return_logprob": True,
            "session_id": episode_id,
        }

    def _completion(self, prompt: TokenIds, sampled: "_Sampled", request: CompletionRequest) -> Completion:
        parsed = self._reader.read(prompt, sampled.ids, request)
        finish = FinishReason.TOOL_CALLS if parsed.calls and not sampled.cut else FinishReason.STOP
        return Completion(
            message=parsed.message(),
            malformed=parsed.malformed,
            finish_reason=FinishReason.LENGTH if sampled.cut else finish,
            prompt_ids=prompt,
            completion_ids=sampled.ids,
            logprobs=sampled.logprobs,
            policy_version=sampled.version,
        )


def open_token_policy(config: PolicyConfig, api_token: SecretStr | None = None) -> TokenPolicy:
    """The policy of a configuration of kind `tokens`. Raises ConfigError for a directory that is no tokenizer's."""
    assert config.tokenizer is not None
    renderer, parser = Renderer.from_directory(config.tokenizer), PARSERS.load(config.parser)()
    reader = Reader(renderer, parser, config.thinking_retention)
    return TokenPolicy(config, CompletionClient(config, api_token), reader)


class _Sampled(NamedTuple):
    ids: TokenIds
    logprobs: Floats
    cut: bool
    version: int


def _read_answer(answer: JsonObject, vocab_size: int) -> _Sampled:
    """The sampled tokens of one answer of `/generate`. Raises NoCompletion for anything else."""
    meta = answer.get("meta_info")
    entries = meta.get("output_token_logprobs") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(entries, list):
        raise NoCompletion("/generate: the answer has no meta_info.output_token_logprobs")
    logprobs, ids = _columns(entries)
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise NoCompletion(f"/generate: a token id lies outside of the tokenizer's {vocab_size}: not the same model?")
    if not all(map(isfinite, logprobs)):
        raise NoCompletion("/generate: a logprob is not a finite number")
    if "output_ids" in answer and answer["output_ids"] != list(ids):
        raise NoCompletion("/generate: output_ids and output_token_logprobs are not of the same tokens")
    return _Sampled(ids, logprobs, _was_cut(meta), _version(meta.get("weight_version")))


def _columns(entries: Sequence[Any]) -> tuple[Floats, TokenIds]:
    """Logprobs and ids of `[logprob, id, text]` each."""
    try:
        ids = tuple(map(itemgetter(1), entries))
        if not set(map(type, ids)) <= {int}:
            raise TypeError
        return tuple(map(float, map(itemgetter(0), entries))), ids
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise NoCompletion("/generate: an entry of output_token_logprobs is not [logprob, id, text]") from error


def _was_cut(meta: JsonObject) -> bool:
    reason = meta.get("finish_reason")
    kind = reason.get("type") if isinstance(reason, dict) else reason
    if kind not in ("stop", "length"):
        raise NoCompletion(f"/generate: finish_reason {kind!r} is neither stop nor length")
    return kind == "length"


def _version(found: JsonValue) -> int:
    """The version of the weights as a number; servers that do not count say 'default', which is 0."""
    return int(found) if isinstance(found, int) or (isinstance(found, str) and found.isdecimal()) else 0
