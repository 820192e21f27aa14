"""The contract of a sandbox backend, and the errors of what is not the policy's doing.

Everything that a policy writes runs behind this contract. What comes back from a sandbox is untrusted.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pydantic import Field

from core.config import Config
from core.errors import SandboxError
from core.registry import Registry
from core.types import Value


class Tier(StrEnum):
    """How strong the walls of a backend are on this machine."""

    NAMESPACES = "namespaces"
    """Own user, pid, mount, network and ipc namespaces, capabilities dropped."""
    UNSAFE = "unsafe"
    """A plain process of the host's user; by explicit choice only."""


class Capabilities(Value):
    """What a backend enforces here, found by probing."""

    backend: str
    tier: Tier
    detail: str


class SandboxSpec(Config):
    """What one sandbox is made of. Paths on the left exist on the host."""

    readonly: Mapping[str, str] = Field(
        default_factory=dict, description="host path -> path inside, read only; readable by others if root runs us"
    )
    env: Mapping[str, str] = Field(default_factory=dict)
    memory_mib: int = Field(default=2048, gt=0, description="one process may map four times as much")
    processes: int = Field(default=256, gt=0, description="threads count too; not enforced by unsafe-local")
    disk_mib: int = Field(default=64, gt=0, description="size of /workspace and of /tmp, each, and of a file")
    nested_namespaces: bool = Field(default=False, description="commands may make namespaces of their own")


class ExecResult(Value):
    """The outcome of one command. A timeout is a result, not an error."""

    exit_code: int | None
    """None when the command was killed by a signal or by the timeout."""
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    truncated: bool = False
    """Output over the cap was dropped from the middle."""
    seconds: float = 0.0


class SandboxLost(SandboxError):
    """The sandbox died or stopped answering. `maybe_executed`: the command may have run."""

    def __init__(self, message: str, *, maybe_executed: bool = False) -> None:
        self.maybe_executed = maybe_executed
        super().__init__(message)


class ProtocolViolation(SandboxError):
    """A reply that no honest in-sandbox agent sends. The sandbox must not be used again."""


class SandboxPathError(SandboxError):
    """A path that does not exist, is too large, or leaves the sandbox."""


class Process(Protocol):
    """A program that runs beside other commands and is spoken to over its standard streams."""

    async def send(self, data: bytes) -> None:
        """Write to its standard input."""
        ...

    async def receive(self) -> bytes:
        """The next bytes of its standard output; b"" at the end. Standard error is kept for `stderr_tail`."""
        ...

    async def kill(self) -> None:
        """Kill it and everything that it started."""
        ...

    def stderr_tail(self) -> str:
        """The last few KiB of its standard error, for messages."""
        ...


class Sandbox(Protocol):
    """One leased place to run commands. The working directory is /workspace."""

    id: str

    async def exec(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float,
        stdin: bytes = b"",
        cwd: str = "/workspace",
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """Run one command to its end, at most once. No process of it is alive when this returns.

        Raises SandboxLost when the sandbox died under it.
        """
        ...

    async def spawn(self, argv: Sequence[str], *, cwd: str = "/workspace") -> Process:
        """Start a long-lived program."""
        ...

    async def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """A regular file, relative to /workspace or absolute. Raises SandboxPathError."""
        ...

    async def write(self, path: str, data: bytes) -> None:
        """Write a file, making its directories. Raises SandboxPathError."""
        ...

    async def files(self, *, max_files: int = 1000) -> tuple[str, ...]:
        """Paths of the regular files below /workspace, relative, sorted; links are not followed."""
        ...

    async def alive(self) -> bool:
        """Whether it still answers."""
        ...

    async def destroy(self) -> None:
        """Kill everything in it and free it. Safe to call twice."""
        ...


class Backend(Protocol):
    """One way to make sandboxes."""

    name: str

    async def probe(self) -> Capabilities:
        """What this backend enforces here. Raises MissingRuntime saying what to install."""
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A fresh sandbox. Raises SandboxError or MissingRuntime."""
        ...

    async def aclose(self) -> None:
        """Destroy everything that this backend made."""
        ...


BACKENDS: Registry[type[Backend]] = Registry(
    "backend",
    {"local": "backends.local:LocalBackend", "unsafe-local": "backends.unsafe_local:UnsafeLocalBackend"},
)


def host_path(path: Path) -> str:
    """An absolute host path with symbolic links resolved, as `SandboxSpec.readonly` wants it."""
    return str(path.resolve())
