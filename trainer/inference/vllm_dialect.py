"""vLLM's way: POST /v1/completions with token ids; weights are read from a directory while what is in flight is kept.

The routes that pause and reload are there with VLLM_SERVER_DEV_MODE=1 only. What is in flight goes on with the keys and
values that it has; a salt of the policy version keeps newer requests from reusing them. Logprobs are those of the
distribution that was sampled from with `--logprobs-mode processed_logprobs`; otherwise they are those at temperature 1,
and requests of another distribution are refused. Adapters are loaded with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 only. Source:
vllm 0.33.0, entrypoints/openai/completion/protocol.py, entrypoints/rl/online/api_router.py,
entrypoints/serve/dev/rpc/api_router.py, entrypoints/serve/lora/api_router.py, entrypoints/openai/models/serving.py.
"""

from math import isfinite
from pathlib import Path

from pydantic import BaseModel

from core.types import FinishReason, JsonObject
from trainer.inference.base import Generation, GenerationRequest, UnusableRequest, VersionSpan
from trainer.inference.dialect import Command, numbered


class _Span(BaseModel):
    version: str
    start: int
    end: int


class _Logprobs(BaseModel):
    token_logprobs: list[float]


class _Choice(BaseModel):
    token_ids: list[int]
    logprobs: _Logprobs
    finish_reason: str
    weight_versions: list[_Span] | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int = 0


class _Usage(BaseModel):
    prompt_tokens_details: _PromptDetails | None = None


class _Answer(BaseModel):
    """What is read of an answer to /v1/completions."""

    choices: list[_Choice]
    usage: _Usage = _Usage()


class VllmDialect:
    """Fulfils Dialect. `processed`: the server was started with --logprobs-mode processed_logprobs."""

    path = "/v1/completions"
    takes_adapters = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve DIR --enable-lora --max-lora-rank RANK"

    def __init__(self, *, processed: bool) -> None:
        self._processed = processed

    def body(self, request: GenerationRequest, max_tokens: int, salt: str, adapter: str | None = None) -> JsonObject:
        """See Dialect."""
        params = request.params
        tempered = params.temperature != 1.0 or params.top_p < 1.0 or params.top_k or params.min_p
        if tempered and not params.greedy and not self._processed:
            raise UnusableRequest(
                "temperature, top_p, top_k and min_p: vLLM's logprobs are those at temperature 1; start it with "
                "--logprobs-mode processed_logprobs and set external.processed_logprobs"
            )
        body: JsonObject = {
            "prompt": list(request.prompt_ids),
            "max_tokens": max_tokens,
            "temperature": 0.0 if params.greedy else params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "min_p": params.min_p,
            "stop": list(params.stop),
            "stop_token_ids": list(params.stop_token_ids),
            "ignore_eos": True,  # what ends a turn is in stop_token_ids
            "logprobs": 0,  # of the sampled token, and of no other
            "return_token_ids": True,
            "return_weight_versions": True,
            "cache_salt": salt,
        }
        if params.greedy:
            body |= {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
        if params.seed is not None:
            body["seed"] = params.seed
        if adapter is not None:
            body["model"] = adapter
        if request.session_id is not None:
            body["session_id"] = request.session_id
        return body

    def generation(self, answer: bytes, version: int) -> Generation:
        """See Dialect."""
        told = _Answer.model_validate_json(answer)
        if len(told.choices) != 1 or not told.choices[0].token_ids:
            raise ValueError("no tokens came back")
        choice = told.choices[0]
        ids, logprobs = choice.token_ids, choice.logprobs.token_logprobs
        if len(ids) != len(logprobs) or not all(map(isfinite, logprobs)):
            raise ValueError(f"{len(ids)} tokens came back with {len(logprobs)} logprobs")
        if choice.finish_reason not in ("length", "stop"):
            raise ValueError(f"the completion was ended: {choice.finish_reason}")
        details = told.usage.prompt_tokens_details
        return Generation(
            token_ids=tuple(ids),
            logprobs=tuple(logprobs),
            finish_reason=FinishReason(choice.finish_reason),
            spans=tuple(VersionSpan(numbered(one.version, version), one.start, one.end) for one in choice.weight_versions or ())
            or (VersionSpan(version, 0, len(ids)),),
            cached_tokens=details.cached_tokens if details is not None else 0,
        )

    async def swap(self, command: Command, folder: Path, version: int) -> None:
        """See Dialect."""
        await command("/pause?mode=keep", {})
        try:
            await command("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
            await command("/update_weight_version", {"new_version": str(version)})
        finally:
            await command("/resume", {})

    async def load_adapter(self, command: Command, name: str, folder: Path) -> None:
        """See Dialect. It is loaded before this ends, so that no request waits for it."""
        await command("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    async def unload_adapter(self, command: Command, name: str) -> None:
        """See Dialect. What is in flight would go on with it."""
        await command("/v1/unload_lora_adapter", {"lora_name": name})
