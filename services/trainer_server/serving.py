"""A policy on disk, served in this process: for evaluations and data generation without a trainer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr

from backends.base import host_path
from services.bind import BearerAuth, claim_socket, make_server, url_of
from tool_call_parsers.base import PARSERS
from tool_call_parsers.rendering import Renderer
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig
from trainer.inference.openai_server import create_app


@asynccontextmanager
async def served_model(
    model: Path, token: SecretStr | None = None, config: LocalEngineConfig | None = None, *, parser: str = "hermes"
) -> AsyncIterator[str]:
    """The address on loopback at which the model of a Hugging Face directory answers. Raises ConfigError."""
    renderer = Renderer.from_directory(model)
    engine = LocalEngine.load(model, config, decode=renderer.decode)
    try:
        app = create_app(engine, renderer, PARSERS.load(parser)(), model_id="policy", model_path=host_path(model))
        with claim_socket("127.0.0.1", 0) as sock:
            server = make_server(BearerAuth(app, token))
            # in a thread, where uvicorn leaves the signals alone: they belong to whoever runs this loop
            serving = asyncio.create_task(asyncio.to_thread(asyncio.run, server.serve(sockets=[sock])))
            try:
                yield url_of(sock)
            finally:
                server.should_exit = True
                await serving
    finally:
        await engine.aclose()
