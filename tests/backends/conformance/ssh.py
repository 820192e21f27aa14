"""How the suite gets the backend `ssh`: a real sshd on loopback, one for all cases."""

import atexit
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from backends.base import Backend
from core.errors import MissingRuntime
from tests.backends.sshd import Sshd, sshd


@asynccontextmanager
async def runtime() -> AsyncIterator[Backend]:
    """A backend of one's own on the suite's sshd."""
    try:
        from backends.ssh import SshBackend
    except ModuleNotFoundError as error:
        raise MissingRuntime(f"the package {error.name!r} is not installed") from error
    backend = SshBackend(_server().config)
    try:
        yield backend
    finally:
        await backend.aclose()


@cache
def _server() -> Sshd:
    opened, maker = ExitStack(), os.getpid()

    def close() -> None:
        if os.getpid() == maker:
            opened.close()

    server = opened.enter_context(sshd(Path(opened.enter_context(TemporaryDirectory()))))
    atexit.register(close)
    return server
