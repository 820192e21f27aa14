"""A policy in tokens: what is sampled is what is learnt from, id by id.

Speaks SGLang's `POST /generate`: token ids in, token ids and logprobs out. The conversation is rendered and extended
here, and tool calls are found by our own parser.
"""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from pydantic import JsonValue, SecretStr

from core.errors import PolicyError
from core.types import FinishReason, Floats, JsonObject, TokenIds
from environments.completion_client import CompletionClient
from environments.policy import Completion, CompletionRequest, OutOfTokens, PolicyConfig
from tool_call_parsers.base import PARSERS, ParsedCompletion, ToolCallParser
from tool_call_parsers.reader import CompletionReader
from tool_call_parsers.rendering import Renderer, ThinkingRetention, TokenSession, history


class Reader:
    """Prompts and completions of episodes, between messages and token ids."""

    def __init__(
        self, renderer: Renderer, parser: ToolCallParser, retention: ThinkingRetention = ThinkingRetention.TEMPLATE
    ) -> None:
        self.renderer, self._retention = renderer, retention
        self._reader = CompletionReader(renderer, parser)

    def prompt(self, request: CompletionRequest) -> TokenIds:
        """The prompt of the next turn of an episode."""
        session = TokenSession(self.renderer, request.task.tools, self._retention)
        return session.prompt(request.task.messages, request.turns)

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
        answer = await self._client.post("/generate", self._body(request.episode_id, prompt, room))
        return self._completion(prompt, _read_answer(answer, self._reader.renderer.vocab_size), request)

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
    """The sampled tokens of one answer of `/generate`. Raises PolicyError for anything else."""
    meta = answer.get("meta_info")
    if not isinstance(meta, dict) or not isinstance(meta.get("output_token_logprobs"), list):
        raise PolicyError("/generate: the answer has no meta_info.output_token_logprobs")
    try:
        pairs = [(int(entry[1]), float(entry[0])) for entry in meta["output_token_logprobs"]]  # type: ignore[index,union-attr]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise PolicyError("/generate: an entry of output_token_logprobs is not [logprob, id, text]") from error
    ids = tuple(index for index, _ in pairs)
    if any(not 0 <= index < vocab_size for index in ids):
        raise PolicyError(f"/generate: a token id lies outside of the tokenizer's {vocab_size}: not the same model?")
    if not all(isfinite(logprob) for _, logprob in pairs):
        raise PolicyError("/generate: a logprob is not a finite number")
    if "output_ids" in answer and answer["output_ids"] != list(ids):
        raise PolicyError("/generate: output_ids and output_token_logprobs are not of the same tokens")
    return _Sampled(ids, tuple(logprob for _, logprob in pairs), _was_cut(meta), _version(meta.get("weight_version")))


def _was_cut(meta: JsonObject) -> bool:
    reason = meta.get("finish_reason")
    kind = reason.get("type") if isinstance(reason, dict) else reason
    if kind not in ("stop", "length"):
        raise PolicyError(f"/generate: finish_reason {kind!r} is neither stop nor length")
    return kind == "length"


def _version(found: JsonValue) -> int:
    """The version of the weights as a number; servers that do not count say 'default', which is 0."""
    return int(found) if isinstance(found, int) or (isinstance(found, str) and found.isdecimal()) else 0
