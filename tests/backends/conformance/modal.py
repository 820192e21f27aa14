"""How the suite gets the backend `modal`: the real client, and on loopback a server that keeps Modal's contract."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.base import Backend, Capabilities, Limit
from core.errors import MissingRuntime


@asynccontextmanager
async def runtime() -> AsyncIterator[Backend]:
    """A backend of one's own on the suite's server."""
    try:
        from backends.modal import ModalBackend, ModalConfig
        from tests.backends.modal_server import modal_server
    except ModuleNotFoundError as error:
        raise MissingRuntime(f"the package {error.name!r} is not installed") from error

    class OnStandIn(ModalBackend):
        async def probe(self) -> Capabilities:
            """What Modal promises, less what the server here does not keep: it bounds neither memory nor CPU."""
            promised = await super().probe()
            return promised.model_copy(update={"limits": promised.limits - {Limit.MEMORY, Limit.CPU}})

    modal_server()
    backend = OnStandIn(ModalConfig(creates_per_second=100))
    try:
        yield backend
    finally:
        await backend.aclose()
