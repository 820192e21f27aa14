"""Sandboxes by apptainer for the tests, where it is installed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.base import Capabilities
from backends.singularity import SingularityBackend


@asynccontextmanager
async def singularity() -> AsyncIterator[SingularityBackend]:
    """The backend, with the apptainer of this machine."""
    backend = ProbedOnce()
    try:
        yield backend
    finally:
        await backend.aclose()


class ProbedOnce(SingularityBackend):
    """A machine does not change what it allows between two tests."""

    async def probe(self) -> Capabilities:
        """See Backend.probe."""
        if not _probed:
            _probed.append(await super().probe())
        return _probed[0]


_probed: list[Capabilities] = []
