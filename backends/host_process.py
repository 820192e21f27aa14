"""The process on the host that holds a sandbox up: started with a socket, watched, waited for."""

import asyncio
import os
import socket
import subprocess
from collections.abc import Sequence

MESSAGE_BYTES = 2000


class HostProcess:
    """Made with `start`; `end` must be awaited once."""

    def __init__(self, process: "subprocess.Popen[bytes]", messages: int) -> None:
        self._process, self._messages = process, messages
        self._pidfd = os.pidfd_open(process.pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    @classmethod
    def start(cls, argv: Sequence[str], end: socket.socket, fds: Sequence[int] = ()) -> "HostProcess":
        """Start `argv`, which inherits `end` and `fds` and nothing else.

        Called on the thread of the event loop, which lives on: bubblewrap dies with the thread that started it.
        """
        messages = os.memfd_create("messages")
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                pass_fds=[end.fileno(), *fds],
                env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(messages)
            raise
        return cls(process, messages)

    @property
    def pid(self) -> int:
        """Its process id on the host."""
        return self._process.pid

    async def end(self, seconds: float) -> str:
        """Wait for its end that long, then kill it. Returns the end of what it wrote to standard error."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            self._process.kill()
            await self._ended.wait()
        self._process.wait()  # it has ended, so this returns at once
        os.close(self._pidfd)
        size = os.fstat(self._messages).st_size
        messages = os.pread(self._messages, MESSAGE_BYTES, max(0, size - MESSAGE_BYTES))
        os.close(self._messages)
        return messages.decode("utf-8", "replace").strip()

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._ended.set()
