"""One NAT process for all tests of this folder: importing NAT takes seconds."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from backends.local import LocalBackend
from core.errors import MissingRuntime
from core.settings import Settings
from environments.nat_agent.evaluator import NatEvaluator
from environments.nat_agent.fork_server import ForkServer


@pytest.fixture(scope="session")
def nat_python() -> Path:
    """The interpreter of the NAT runtime; tests that need it are skipped where it is not."""
    python = Settings().nat_python
    if not python.exists():
        pytest.skip("there is no NAT runtime: make nat")
    return python


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def evaluator(nat_python: Path) -> AsyncIterator[NatEvaluator]:
    """An evaluator in a sandbox with walls."""
    backend = LocalBackend()
    try:
        await backend.probe()
    except MissingRuntime as missing:
        pytest.skip(str(missing))
    async with NatEvaluator(backend, nat_python, parallel=2) as running:
        yield running
    await backend.aclose()


@pytest.fixture
def server(evaluator: NatEvaluator) -> ForkServer:
    """The fork server of that evaluator."""
    return evaluator.server
