"""The sandboxes that tests of environments play in: with walls where this machine can build them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.base import Backend, SandboxSpec
from backends.local import LocalBackend
from backends.unsafe_local import UnsafeLocalBackend
from core.errors import MissingRuntime
from environments.tool_context import ToolContext


@asynccontextmanager
async def any_backend() -> AsyncIterator[Backend]:
    """`local`, or where that is impossible `unsafe-local`: these tests run nothing hostile."""
    backend: Backend = LocalBackend()
    try:
        await backend.probe()
    except MissingRuntime:
        backend = UnsafeLocalBackend()
    try:
        yield backend
    finally:
        await backend.aclose()


@asynccontextmanager
async def any_context() -> AsyncIterator[ToolContext]:
    """The context of one episode in a real sandbox."""
    async with any_backend() as backend, ToolContext(await backend.create(SandboxSpec())) as context:
        yield context
