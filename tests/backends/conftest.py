"""Sandboxes of every backend that works on this machine."""

from collections.abc import AsyncIterator

import pytest

from backends.agent_sandbox import AgentSandbox
from backends.base import SandboxSpec
from backends.local import LocalBackend
from backends.unsafe_local import UnsafeLocalBackend
from core.errors import MissingRuntime

AnyBackend = LocalBackend | UnsafeLocalBackend


@pytest.fixture
async def local() -> AsyncIterator[LocalBackend]:
    """The backend with walls."""
    backend = LocalBackend()
    try:
        await backend.probe()
    except MissingRuntime as missing:
        pytest.skip(str(missing))
    yield backend
    await backend.aclose()


@pytest.fixture(params=["local", "unsafe-local"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[AnyBackend]:
    """Both backends, one after the other."""
    backend = LocalBackend() if request.param == "local" else UnsafeLocalBackend()
    try:
        await (await backend.create(SandboxSpec())).destroy()
    except MissingRuntime as missing:
        pytest.skip(str(missing))
    yield backend
    await backend.aclose()


@pytest.fixture
async def sandbox(backend: AnyBackend) -> AgentSandbox:
    """A sandbox of either backend."""
    return await backend.create(SandboxSpec())


@pytest.fixture
async def walled(local: LocalBackend) -> AgentSandbox:
    """A sandbox with walls, with room for few processes."""
    return await local.create(SandboxSpec(processes=64))
