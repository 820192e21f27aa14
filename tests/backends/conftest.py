"""Sandboxes of every backend that works on this machine."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

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


def processes_with(word: str) -> list[int]:
    """Pids on this machine, seen from outside of any sandbox, whose command line holds `word`."""
    found = []
    for directory in _processes():
        try:
            if word.encode() in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def children() -> list[int]:
    """Pids of this process's children."""
    found = []
    for directory in _processes():
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(directory.name))
    return found


def _processes() -> Iterator[Path]:
    return (directory for directory in Path("/proc").iterdir() if directory.name.isdigit())
