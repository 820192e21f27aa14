"""Sandboxes by apptainer for the tests, where it is installed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.singularity import SingularityBackend


@asynccontextmanager
async def singularity() -> AsyncIterator[SingularityBackend]:
    """The backend, with the apptainer of this machine."""
    backend = SingularityBackend()
    try:
        yield backend
    finally:
        await backend.aclose()
