"""SGLang's way: POST /generate with token ids; weights come by a directory or a broadcast while what is in flight is retracted.

Its logprobs are those before top_p, top_k and min_p cut, so such requests are refused. Source: sglang 0.5.23,
srt/entrypoints/http_server.py, srt/managers/io_struct.py and srt/lora/lora_registry.py.
"""

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from core.errors import TrainingError
from core.types import FinishReason, JsonObject
from trainer.inference.base import Generation, GenerationRequest, UnusableRequest, VersionSpan
from trainer.inference.dialect import Command, Meeting, Part, numbered


class _Span(BaseModel):
    version: str | int
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
    """Fulfils Dialect and NetworkDialect."""

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
        one = (VersionSpan(numbered(meta.weight_version, version), 0, len(meta.output_token_logprobs)),)
        many = tuple(VersionSpan(numbered(span.version, version), span.start, span.end) for span in meta.weight_versions or ())
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

    async def workers(self, command: Command) -> int:
        """See NetworkDialect."""
        told = await command("/server_info", None)
        tensor, others = told.get("tp_size"), {name: told.get(name, 1) for name in ("dp_size", "pp_size")}
        if not isinstance(tensor, int) or set(others.values()) != {1}:
            raise TrainingError(f"/server_info says tp_size = {tensor}, {others}: only tensor parallel workers can join")
        return tensor

    async def join(self, command: Command, meeting: Meeting) -> None:
        """See NetworkDialect."""
        with suppress(TrainingError):  # there is none, unless a process before this one died while it published
            await command("/end_weight_update", {})
        place: JsonObject = {
            "master_address": meeting.address,
            "master_port": meeting.port,
            "rank_offset": meeting.rank,
            "world_size": meeting.world,
            "group_name": meeting.group,
            "backend": meeting.backend,
        }
        await command("/init_weights_update_group", place)

    async def leave(self, command: Command, group: str) -> None:
        """See NetworkDialect."""
        await command("/destroy_weights_update_group", {"group_name": group})

    async def begin(self, command: Command) -> None:
        """See NetworkDialect. What is in flight is retracted, because its cache is emptied."""
        await command("/pause_generation", {"mode": "retract"})
        await command("/begin_weight_update", {})

    async def receive(self, command: Command, part: Part, version: int) -> None:
        """See NetworkDialect."""
        update: JsonObject = {
            "names": list(part.names),
            "dtypes": list(part.dtypes),
            "shapes": [list(shape) for shape in part.shapes],
            "group_name": part.group,
            "weight_version": str(version),
            "abort_all_requests": False,
            "flush_cache": True,
        }
        await command("/update_weights_from_distributed", update)

    async def end(self, command: Command) -> None:
        """See NetworkDialect."""
        try:
            await command("/end_weight_update", {})
        finally:
            await command("/continue_generation", {})
