"""A stand-in for a vLLM server: the routes and fields of 0.33.0, spoken by a server that samples a real model."""

import asyncio
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from core.errors import TrainingError
from tests.trainer.inference.serving import Adapters, StandIn
from trainer.inference.base import Generation, GenerationRequest, SamplingParams, UnusableRequest
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig


class CompletionRequest(BaseModel):
    """The fields of vLLM 0.33 that are used; vLLM passes over those that it does not know, which a typo would be."""

    model_config = ConfigDict(extra="forbid")

    prompt: list[int]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    logprobs: int
    return_token_ids: bool
    return_weight_versions: bool
    cache_salt: str
    seed: int | None = None
    session_id: str | None = None
    model: str | None = None


class LoadLoraRequest(BaseModel):
    """What vLLM 0.33 reads to load an adapter."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class VllmServer(StandIn):
    """Completions, and the routes of VLLM_SERVER_DEV_MODE=1 by which weights are reloaded from a directory.

    While it is paused it takes requests and answers none, as `mode=keep` does.
    """

    def __init__(self, model_dir: Path, *, lora: bool = True) -> None:
        """`lora`: started with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1."""
        self.salts: list[str] = []
        self.adapters = Adapters(model_dir)
        self.label = "default"
        self.full = False
        self._path = model_dir
        self._running = asyncio.Event()
        self._running.set()
        commands = ("/pause", "/collective_rpc", "/update_weight_version", "/resume")
        routes = [Route(path, self._command, methods=["POST"]) for path in commands]
        routes += [Route("/v1/completions", self._complete, methods=["POST"]), Route("/health", lambda _: Response())]
        routes += [Route("/v1/models", self._models)]
        if lora:
            routes += [Route("/v1/load_lora_adapter", self._load, methods=["POST"])]
            routes += [Route("/v1/unload_lora_adapter", self._unload, methods=["POST"])]
        super().__init__(Starlette(routes=routes), LocalEngine.load(model_dir, LocalEngineConfig(max_batch=8)))

    async def _complete(self, request: Request) -> Response:
        if self.full:
            return JSONResponse({"error": {"message": "queue overflow"}}, status_code=503)
        asked = CompletionRequest.model_validate(await request.json())
        self.salts.append(asked.cache_salt)
        await self._running.wait()
        if asked.model is not None and asked.model not in self.adapters:
            return _error(404, f"The model `{asked.model}` does not exist.")
        params = SamplingParams(
            max_tokens=asked.max_tokens, temperature=asked.temperature, top_p=asked.top_p, seed=asked.seed,
            stop_token_ids=tuple(asked.stop_token_ids),
        )  # fmt: skip
        wanted = GenerationRequest(prompt_ids=tuple(asked.prompt), params=params)
        try:
            made = await self._sample(asked.model, wanted)
        except UnusableRequest as error:
            return _error(400, str(error))
        span = {"version": self.label, "start": 0, "end": len(made.token_ids)}
        tokens = [f"token_id:{token}" for token in made.token_ids]
        logprobs = {"text_offset": [], "token_logprobs": list(made.logprobs), "tokens": tokens, "top_logprobs": []}
        choice = {
            "index": 0, "text": "", "logprobs": logprobs, "finish_reason": made.finish_reason.value, "stop_reason": None,
            "token_ids": list(made.token_ids), "prompt_token_ids": asked.prompt, "weight_versions": [span],
        }  # fmt: skip
        usage = {"prompt_tokens": len(asked.prompt), "total_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": None}
        return JSONResponse({"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [choice], "usage": usage})

    async def _sample(self, adapter: str | None, wanted: GenerationRequest) -> Generation:
        if adapter is None:
            return await self.engine.generate(wanted)
        async with self.adapters.running_on(adapter) as engine:
            return await engine.generate(wanted)

    async def _models(self, request: Request) -> Response:
        cards = [{"id": "model", "root": str(self._path), "parent": None}]
        cards += [{"id": name, "root": folder, "parent": "model"} for name, folder in self.adapters.listed()]
        return JSONResponse({"object": "list", "data": cards})

    async def _load(self, request: Request) -> Response:
        asked = LoadLoraRequest.model_validate(await request.json())
        self.commands.append("load")
        if asked.lora_name in self.adapters and not asked.load_inplace:
            return _error(400, f"The lora adapter '{asked.lora_name}' has already been loaded.")
        try:
            await self.adapters.load(asked.lora_name, asked.lora_path)
        except ValueError as error:
            return _error(500, str(error))
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    async def _unload(self, request: Request) -> Response:
        """vLLM waits for nothing here: what is in flight goes on."""
        name = (await request.json())["lora_name"]
        self.commands.append("unload")
        if name not in self.adapters:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        self.adapters.unload(name)
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def stop(self) -> None:
        await super().stop()
        await self.adapters.aclose()

    async def _command(self, request: Request) -> Response:
        self.commands.append(request.url.path.removeprefix("/") + (f"?{request.url.query}" if request.url.query else ""))
        body = await request.json()
        match request.url.path:
            case "/pause":
                self._running.clear()
                return JSONResponse({"status": "paused"})
            case "/collective_rpc":
                assert body["method"] == "reload_weights"
                try:
                    self._weights = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
                    await self.engine.publish(self._weights, 0)
                except TrainingError as error:
                    return JSONResponse({"error": {"message": str(error)}}, status_code=500)
                return JSONResponse({"results": [None]})
            case "/update_weight_version":
                self.label = body["new_version"]
                return JSONResponse({"success": True, "new_version": self.label})
        self._running.set()
        return JSONResponse({"status": "resumed"})


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "InvalidUserInput", "code": status}}, status_code=status)
