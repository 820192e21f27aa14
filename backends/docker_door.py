"""A socket of this machine that is shown in a container: a way to its agent that does not lead through the daemon.

The daemon and containerd's shim copy whatever passes through them, which costs a command a quarter of a millisecond. The
socket is shown as one file, and nothing else of its directory is. It is there for one caller, the agent, which calls before
any command runs; then nobody listens there any more, and its name is gone from this machine. Where the daemon runs elsewhere,
or what runs its containers passes no socket on, the agent says so, and the attached streams remain.
"""

import asyncio
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

INSIDE = "/run/natgym-door"
OPENED = b"1"
"""What the agent says on its standard output when it has called; something else when it could not."""


class Door:
    """Listens from the start. Raises OSError where no socket can be made."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="natgym-"))  # which nobody else may enter
        self._listening = socket.socket(socket.AF_UNIX)
        self.path = str(self._directory / "door")
        try:
            self._listening.bind(self.path)
            os.chmod(self.path, 0o666)  # noqa: PTH101, S103 the agent is another user
            self._listening.listen(1)
            self._listening.setblocking(False)
        except BaseException:
            self.close()
            raise

    async def caller(self) -> socket.socket:
        """The socket to whoever has called."""
        end, _ = await asyncio.get_running_loop().sock_accept(self._listening)
        return end

    def close(self) -> None:
        """Listen no more, and leave nothing. Safe to call twice."""
        self._listening.close()
        shutil.rmtree(self._directory, ignore_errors=True)


def opened_door() -> Door | None:
    """One, where this machine has a place for it: the path of a socket holds about a hundred characters."""
    with suppress(OSError):
        return Door()
    return None
