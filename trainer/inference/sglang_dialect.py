"""SGLang's way: POST /generate with token ids; weights are read from a directory while what is in flight is retracted.

Its logprobs are those before top_p, top_k and min_p cut, so such requests are refused. Source: sglang 0.5.23,
srt/entrypoints/http_server.py, srt/managers/io_struct.py and srt/lora/lora_registry.py.
"""

from pathlib import Path

from pydantic import BaseModel

from core.errors import TrainingError
from core.types import FinishReason, JsonObject
from trainer.inference.base import Generation, GenerationRequest, UnusableRequest, VersionSpan
from trainer.inference.dialect import Command


class _Span(BaseModel):
    version: int
    start: int
    end: int


class _Meta(BaseModel):
    finish_reason: JsonObject
    output_token_logprobs: list[tuple[float, int, object]]
    cached_tokens: int = 0
    weight_version: str | None = None
    weight_versions: list[_Span] | None = None


class _Answer(BaseModel):
    """What is read of an answer to /generate."""

    meta_info: _Meta


class SGLangDialect:
    """Fulfils Dialect."""

    path = "/generate"
    takes_adapters = "--enable-lora --max-lora-rank RANK --lora-target-modules NAMES"

    def body(self, request: GenerationRequest, max_tokens: int, salt: str, adapter: str | None = None) -> JsonObject:
        """See Dialect. Needs no salt: its cache is emptied with the weights, and kept apart by adapter."""
        params = request.params
        if not params.greedy and (params.top_p < 1.0 or params.top_k or params.min_p):
            raise UnusableRequest("top_p, top_k and min_p: SGLang's logprobs are not those of what such a cut leaves")
        sampling: JsonObject = {
            "max_new_tokens": max_tokens,
            "temperature": 0.0 if params.greedy else params.temperature,
            "stop_token_ids": list(params.stop_token_ids),
            "stop": list(params.stop),
            "ignore_eos": not params.stop_token_ids,  # SGLang looks at no stop token where it ignores the end of turn
        }
        if params.seed is not None:
            sampling["sampling_seed"] = params.seed
        body: JsonObject = {"input_ids": list(request.prompt_ids), "sampling_params": sampling, "return_logprob": True}
        if adapter is not None:
            body["lora_path"] = adapter  # a name, whatever the field is called
        return body

    def generation(self, answer: bytes, version: int) -> Generation:
        """See Dialect."""
        meta = _Answer.model_validate_json(answer).meta_info
        if not meta.output_token_logprobs:
            raise ValueError("no tokens came back")
        if meta.finish_reason.get("type") not in ("length", "stop"):
            raise ValueError(f"the completion was ended: {meta.finish_reason}")
        named = meta.weight_version
        one = (VersionSpan(int(named) if named and named.isdigit() else version, 0, len(meta.output_token_logprobs)),)
        many = tuple(VersionSpan(span.version, span.start, span.end) for span in meta.weight_versions or ())
        return Generation(
            token_ids=tuple(token for _, token, _ in meta.output_token_logprobs),
            logprobs=tuple(logprob for logprob, _, _ in meta.output_token_logprobs),
            finish_reason=FinishReason.LENGTH if meta.finish_reason.get("type") == "length" else FinishReason.STOP,
            spans=many or one,
            cached_tokens=meta.cached_tokens,
        )

    async def swap(self, command: Command, folder: Path, version: int) -> None:
        """See Dialect."""
        update: JsonObject = {
            "model_path": str(folder),
            "weight_version": str(version),
            "abort_all_requests": False,
            "flush_cache": True,
        }
        await command("/pause_generation", {"mode": "retract"})
        try:
            told = await command("/update_weights_from_disk", update)
            if told.get("success") is not True:
                raise TrainingError(f"did not take version {version}: {told.get('message')}")
        finally:
            await command("/continue_generation", {})

    async def load_adapter(self, command: Command, name: str, folder: Path) -> None:
        """See Dialect."""
        await command("/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})

    async def unload_adapter(self, command: Command, name: str) -> None:
        """See Dialect."""
        await command("/unload_lora_adapter", {"lora_name": name})
