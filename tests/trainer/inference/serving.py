"""An endpoint on a real socket, and an engine that says what it is told to."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from torch import Tensor

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
from trainer.inference.openai_server import create_app


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
