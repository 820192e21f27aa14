"""The backends that the suite runs on: how to get each one on this machine, or why it is not there.

To add one: write an async context manager that yields a Backend, or raises MissingRuntime with what to install, and give
it a row here. It is entered once for every case, so what takes long to start (a daemon, an image) it keeps for itself.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module

from backends.base import Backend
from backends.local import LocalBackend
from backends.unsafe_local import UnsafeLocalBackend

Runtime = Callable[[], AbstractAsyncContextManager[Backend]]

RUNTIMES = {
    "docker": "tests.backends.dockerd:docker",
    "landlock": "tests.backends.conformance.registry:landlock",
    "local": "tests.backends.conformance.registry:local",
    "modal": "tests.backends.conformance.modal:runtime",
    "singularity": "tests.backends.apptainer:singularity",
    "ssh": "tests.backends.conformance.ssh:runtime",
    "unsafe-local": "tests.backends.conformance.registry:unsafe_local",
}
"""Name of a backend -> module:attribute of its Runtime, imported when its first case runs."""


def runtime(name: str) -> Runtime:
    """The runtime of that name."""
    module, _, attribute = RUNTIMES[name].partition(":")
    return getattr(import_module(module), attribute)


@asynccontextmanager
async def local() -> AsyncIterator[Backend]:
    """This machine's bubblewrap."""
    backend = LocalBackend()
    try:
        yield backend
    finally:
        await backend.aclose()


@asynccontextmanager
async def landlock() -> AsyncIterator[Backend]:
    """What the backend `local` does where bubblewrap is not installed."""
    backend = LocalBackend("no-such-bubblewrap")
    try:
        yield backend
    finally:
        await backend.aclose()


@asynccontextmanager
async def unsafe_local() -> AsyncIterator[Backend]:
    """No walls: what the contract promises must hold all the same."""
    backend = UnsafeLocalBackend()
    try:
        yield backend
    finally:
        await backend.aclose()
