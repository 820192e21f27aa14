"""What a tool or a reward may do with the sandbox of its episode."""

from collections.abc import Sequence

from backends.base import ExecResult, Sandbox


class ToolContext:
    """The sandbox of one episode, as tools and the reward see it: the same one, before and after."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def bash(self, command: str, *, timeout_seconds: float = 30.0) -> ExecResult:
        """Run one shell command in /workspace."""
        return await self._sandbox.exec(["bash", "-c", command], timeout_seconds=timeout_seconds)

    async def run(self, argv: Sequence[str], *, timeout_seconds: float = 30.0) -> ExecResult:
        """Run one program in /workspace."""
        return await self._sandbox.exec(argv, timeout_seconds=timeout_seconds)

    async def read_text(self, path: str, *, max_bytes: int = 1 << 18) -> str:
        """A file as text; bytes that are not UTF-8 are replaced. Raises SandboxPathError."""
        return (await self._sandbox.read(path, max_bytes=max_bytes)).decode("utf-8", errors="replace")

    async def write_text(self, path: str, text: str) -> None:
        """Write a text file, making its directories. Raises SandboxPathError."""
        await self._sandbox.write(path, text.encode())

    async def files(self) -> tuple[str, ...]:
        """Relative paths of the regular files in /workspace."""
        return await self._sandbox.files()
