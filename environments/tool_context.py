"""What a tool or a reward may do with the sandbox of its episode."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from backends.base import ExecResult, RunResult, Sandbox, SandboxPathError, SessionKind

T = TypeVar("T")


class ToolContext:
    """The sandbox of one episode, as tools and the reward see it: the same one, before and after.

    Entered once per episode with `async with`; what tools opened for the episode is closed at its end.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._opened = AsyncExitStack()
        self._held: dict[str, Any] = {}
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._opened.aclose()

    async def bash(self, command: str, *, timeout_seconds: float = 30.0) -> ExecResult:
        """Run one shell command in /workspace."""
        return await self._sandbox.exec(["bash", "-c", command], timeout_seconds=timeout_seconds)

    async def run(self, argv: Sequence[str], *, timeout_seconds: float = 30.0, stdin: bytes = b"") -> ExecResult:
        """Run one program in /workspace."""
        return await self._sandbox.exec(argv, timeout_seconds=timeout_seconds, stdin=stdin)

    async def session(self, kind: SessionKind, code: str, *, timeout_seconds: float = 60.0) -> RunResult:
        """Run code in the episode's own interpreter of that kind, which keeps its directory and variables."""
        return await (await self._sandbox.session(kind=kind)).run(code, timeout_seconds=timeout_seconds)

    async def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """The bytes of a file. Raises SandboxPathError, also for a file of more than `max_bytes`."""
        return await self._sandbox.read(path, max_bytes=max_bytes)

    async def write(self, path: str, data: bytes) -> None:
        """Write a file, making its directories. Raises SandboxPathError."""
        await self._sandbox.write(path, data)

    async def read_text(self, path: str, *, max_bytes: int = 1 << 18) -> str:
        """A file as text; bytes that are not UTF-8 are replaced. Raises SandboxPathError."""
        return (await self.read(path, max_bytes=max_bytes)).decode("utf-8", errors="replace")

    async def write_text(self, path: str, text: str) -> None:
        """Write a text file, making its directories. Raises SandboxPathError."""
        await self.write(path, text.encode())

    async def upload(self, files: Mapping[str, bytes | Path]) -> None:
        """Write many files: path in the sandbox -> bytes, or a file of this machine. Raises SandboxPathError."""
        await self._sandbox.upload(files)

    async def download(self, path: str, destination: Path, *, max_bytes: int = 1 << 26) -> tuple[str, ...]:
        """Copy a folder of the sandbox into an empty folder of this machine; the relative paths. Links are left out.

        Raises SandboxPathError, also for a folder of more than `max_bytes` or 1,000 files.
        """
        return await self._sandbox.download(path, destination, max_bytes=max_bytes)

    async def files(self) -> tuple[str, ...]:
        """Relative paths of the regular files in /workspace; none where the policy made it unreadable, or a link."""
        try:
            return await self._sandbox.files()
        except SandboxPathError:  # the policy's own doing, and so no Failure of its episode
            return ()

    async def held(self, key: str, open_one: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """What tools keep for the length of the episode, opened by the first who asks for that key."""
        async with self._turn:
            if key not in self._held:
                self._held[key] = await self._opened.enter_async_context(open_one())
            return self._held[key]
