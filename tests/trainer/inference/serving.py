"""An endpoint on a real socket, and an engine that says what it is told to."""

import asyncio
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import torch
from peft import PeftModel
from starlette.types import ASGIApp
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.types import FinishReason
from services.bind import claim_socket, make_server, url_of
from tool_call_parsers.hermes import HermesParser
from tool_call_parsers.rendering import Renderer
from trainer.inference.base import (
    EngineStats,
    Generation,
    GenerationRequest,
    InferenceEngine,
    TokenChunk,
    VersionSpan,
)
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig
from trainer.inference.openai_server import create_app


class StandIn:
    """A server of another kind on a socket, that samples a real model: what a subclass says in its app."""

    def __init__(self, app: ASGIApp, engine: LocalEngine) -> None:
        self.engine, self.commands = engine, list[str]()
        self._sock = claim_socket("127.0.0.1", 0)
        self.url = url_of(self._sock)
        self._server = make_server(app)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._sock]))

    async def stop(self) -> None:
        self._server.should_exit = True
        await self._serving
        await self.engine.aclose()


def merged_by_peft(model_dir: Path, folder: Path) -> dict[str, Tensor]:
    """The weights of a model with an adapter in it. Raises ValueError where there is none."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5 for a name of version 4
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload().state_dict()


class Adapters:
    """What such a server has loaded by name: engines of the model with an adapter that peft merged into it."""

    def __init__(self, model_dir: Path) -> None:
        self.cut_off: list[str] = []
        """Adapters that were unloaded while a request was on them."""
        self.gate = asyncio.Event()
        """Requests on adapters wait where it is not set."""
        self.gate.set()
        self.running = Counter[str]()
        self._model_dir, self._engines, self._folders = model_dir, dict[str, LocalEngine](), dict[str, str]()
        self._unloaded: list[LocalEngine] = []

    def __contains__(self, name: str) -> bool:
        return name in self._engines

    def listed(self) -> list[tuple[str, str]]:
        return list(self._folders.items())

    async def load(self, name: str, folder: str) -> None:
        weights = merged_by_peft(self._model_dir, Path(folder))
        engine = LocalEngine.load(self._model_dir, LocalEngineConfig(max_batch=8))
        await engine.publish(weights, 0)
        self._engines[name], self._folders[name] = engine, folder

    def unload(self, name: str) -> None:
        if self.running[name]:
            self.cut_off.append(name)
        self._unloaded.append(self._engines.pop(name))
        del self._folders[name]

    @asynccontextmanager
    async def running_on(self, name: str) -> AsyncIterator[LocalEngine]:
        """The engine of an adapter, for one request."""
        self.running[name] += 1
        try:
            engine = self._engines[name]
            await self.gate.wait()
            yield engine
        finally:
            self.running[name] -= 1

    async def aclose(self) -> None:
        for engine in (*self._engines.values(), *self._unloaded):
            await engine.aclose()
        self._engines.clear()


S = TypeVar("S", bound=StandIn)


@asynccontextmanager
async def two_of(make: Callable[[], S]) -> AsyncIterator[list[S]]:
    """Two such servers, stopped at the end."""
    async with AsyncExitStack() as stack:
        made = [make() for _ in range(2)]
        for one in made:
            stack.push_async_callback(one.stop)
        yield made


class ScriptedEngine:
    """Fulfils InferenceEngine: every completion is the same ids, a token a chunk, sampled by version 3."""

    max_length = 512
    policy_version = 3

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._ids = tuple(token_ids)
        self.asked: list[GenerationRequest] = []

    async def generate(self, request: GenerationRequest) -> Generation:
        self.asked.append(request)
        spans = (VersionSpan(3, 0, len(self._ids)),)
        return Generation(self._ids, (-0.5,) * len(self._ids), FinishReason.STOP, spans)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        self.asked.append(request)
        for index, token in enumerate(self._ids, start=1):
            yield TokenChunk((token,), (-0.5,), 3, FinishReason.STOP if index == len(self._ids) else None)

    async def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        self.policy_version = version

    def stats(self) -> EngineStats:
        return EngineStats(policy_version=3, running=0, waiting=0)

    async def aclose(self) -> None:
        """Nothing to free."""


@asynccontextmanager
async def served(engine: InferenceEngine, model_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an endpoint that serves this engine."""
    app = create_app(engine, Renderer.from_directory(model_dir), HermesParser(), model_id="policy", model_path=str(model_dir))
    sock = claim_socket("127.0.0.1", 0)
    server = make_server(app)
    running = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        async with httpx.AsyncClient(base_url=url_of(sock), timeout=60, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        await running
