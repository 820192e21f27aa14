"""The contract of a sandbox backend. Its errors are in backends/errors.py and can be imported from here.

Everything that a policy writes runs behind this contract. What comes back from a sandbox is untrusted.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pydantic import Field

from backends.errors import (
    BackendUnavailable,
    Blame,
    CapabilityError,
    CapacityExhausted,
    Cause,
    ExecRefused,
    ImageError,
    PathProblem,
    ProtocolViolation,
    QuotaExceeded,
    RateLimited,
    SandboxLost,
    SandboxPathError,
    StartTimeout,
)
from core.config import Config
from core.errors import SandboxError
from core.registry import Registry
from core.types import Value

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendUnavailable",
    "Blame",
    "Capabilities",
    "CapabilityError",
    "CapacityExhausted",
    "Cause",
    "ExecRefused",
    "ExecResult",
    "Feature",
    "ImageError",
    "Limit",
    "Network",
    "PathProblem",
    "Process",
    "ProtocolViolation",
    "QuotaExceeded",
    "RateLimited",
    "RunResult",
    "Sandbox",
    "SandboxError",
    "SandboxLost",
    "SandboxPathError",
    "SandboxSpec",
    "Session",
    "SessionKind",
    "StartTimeout",
    "Tier",
    "Usage",
    "host_path",
]


class Tier(StrEnum):
    """How strong the walls of a backend are on this machine, strongest first."""

    VM = "vm"
    """A kernel of its own: a virtual machine or gVisor."""
    CONTAINED = "contained"
    """Namespaces, and limits on processes, memory and CPU of the sandbox as a whole."""
    NAMESPACES = "namespaces"
    """Own user, pid, mount, network and ipc namespaces, capabilities dropped; limits for each process."""
    LANDLOCK = "landlock"
    """No namespaces: files by Landlock, network by seccomp, the processes of the host in sight."""
    UNSAFE = "unsafe"
    """A plain process of the host's user; by explicit choice only."""


class Limit(StrEnum):
    """What may be bounded for a sandbox as a whole."""

    PROCESSES = "processes"
    MEMORY = "memory"
    CPU = "cpu"
    DISK = "disk"


class Feature(StrEnum):
    """What not every backend can do."""

    RESET = "reset"
    SNAPSHOT = "snapshot"
    FORK = "fork"
    SET_NETWORK = "set_network"


class Network(StrEnum):
    """What a sandbox may reach."""

    NONE = "none"
    OPEN = "open"


class SessionKind(StrEnum):
    """What interprets the lines of a session."""

    BASH = "bash"
    PYTHON = "python"


class Capabilities(Value):
    """What a backend enforces here, found by probing."""

    backend: str
    tier: Tier
    detail: str
    private_pids: bool = False
    """A command sees and can signal the processes of its own sandbox only."""
    no_network: bool = False
    """A sandbox with Network.NONE reaches nothing, the machine it runs on included."""
    hides_host: bool = False
    """The files of the machine it runs on are not there, what the spec names excepted."""
    limits: frozenset[Limit] = frozenset()
    features: frozenset[Feature] = frozenset()


class SandboxSpec(Config):
    """What one sandbox is made of. Paths on the left exist on the host."""

    readonly: Mapping[str, str] = Field(
        default_factory=dict, description="host path -> path inside, read only; readable by others if root runs us"
    )
    env: Mapping[str, str] = Field(default_factory=dict)
    image: str = Field(default="", description="image or root directory, for backends that run one; empty: their own choice")
    network: Network = Field(default=Network.NONE, description="what it may reach; a backend that cannot refuses")
    memory_mib: int = Field(default=2048, gt=0, description="without cgroups one process may map four times as much")
    cpus: float = Field(default=2.0, gt=0, description="enforced where the tier is contained or vm")
    processes: int = Field(default=256, gt=0, description="threads count too; not enforced by unsafe-local")
    disk_mib: int = Field(default=64, gt=0, description="size of /workspace and of /tmp, each, and of a file")
    lifetime_seconds: float = Field(default=0.0, ge=0, description="a provider ends it after that long; 0: its default")
    nested_namespaces: bool = Field(default=False, description="commands may make namespaces of their own")


class ExecResult(Value):
    """The outcome of one command. A timeout is a result, not an error."""

    exit_code: int | None
    """None when the command was killed by a signal or by the timeout."""
    stdout: bytes
    stderr: bytes
    signal: int | None = None
    """The number of the signal that killed it; None also for a timeout."""
    timed_out: bool = False
    truncated: bool = False
    """Output over the cap was dropped from the middle."""
    stdout_total: int = 0
    """Bytes that it wrote to standard output, those dropped included."""
    stderr_total: int = 0
    out_of_memory: bool = False
    """The kernel killed something of it for its memory; known only where the tier is contained."""
    seconds: float = 0.0


class RunResult(ExecResult):
    """The outcome of one `Session.run`. The exit code of Python code is 0, or 1 after an exception."""

    cwd: str = "/workspace"
    """Where the session is now."""
    ended: bool = False
    """The interpreter is gone, with its variables: by `exit`, by a timeout, by a kill. The next run starts another in `cwd`."""


class Usage(Value):
    """What a sandbox uses at this moment."""

    processes: int = Field(ge=0, description="its agent included")
    memory_bytes: int = Field(ge=0, description="resident, of all processes; shared pages count for each")
    cpu_seconds: float = Field(ge=0, description="of all processes that are alive or were waited for")
    disk_bytes: int = Field(ge=0, description="in its writable directories")


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


class Session(Protocol):
    """An interpreter that keeps its working directory, environment and variables from one run to the next."""

    async def run(self, code: str, *, timeout_seconds: float, max_output: int = 1 << 20) -> RunResult:
        """Run code at most once; Python code that ends in an expression prints its value, as at a prompt.

        At a timeout the interpreter is killed with everything that it started. One run at a time.
        """
        ...

    async def restart(self) -> None:
        """Kill the interpreter and what it started; the next run starts another in /workspace."""
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
        env: Mapping[str, str] | None = None,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """Run one command to its end, at most once. No process of it is alive when this returns.

        Its environment is the spec's and `env`, nothing of the host's. Raises SandboxLost when the sandbox died under it.
        """
        ...

    async def spawn(self, argv: Sequence[str], *, cwd: str = "/workspace", env: Mapping[str, str] | None = None) -> Process:
        """Start a long-lived program."""
        ...

    async def session(self, name: str = "main", *, kind: SessionKind = SessionKind.BASH) -> Session:
        """The session of that name and kind; its interpreter is started by the first run."""
        ...

    async def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """A regular file, relative to /workspace or absolute. Raises SandboxPathError."""
        ...

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file, making its directories. Raises SandboxPathError."""
        ...

    async def upload(self, files: Mapping[str, bytes | Path]) -> None:
        """Write many files: path inside -> bytes, or a file of the host, whose executable bit is kept."""
        ...

    async def download(
        self, path: str, destination: Path, *, max_bytes: int = 1 << 26, max_files: int = 1000
    ) -> tuple[str, ...]:
        """Copy the regular files below a directory into an empty directory of the host; returns their relative paths.

        Links are neither followed nor made. Raises SandboxPathError where there are more files or bytes.
        """
        ...

    async def files(self, *, max_files: int = 1000) -> tuple[str, ...]:
        """Paths of the regular files below /workspace, relative, sorted; links are not followed."""
        ...

    async def snapshot(self) -> str:
        """Keep the files of the writable directories as they are now. Returns a name for `reset`. No process is kept.

        Raises SandboxError where they cannot be kept: too many or too large, closed to us, or after 256 snapshots.
        """
        ...

    async def reset(self, snapshot: str = "") -> None:
        """Kill every command, program and session, and put the files back: as they were at that snapshot, or at the start."""
        ...

    async def fork(self) -> "Sandbox":
        """Another sandbox of the same spec with the files of this one. Raises CapabilityError where there is none."""
        ...

    async def set_network(self, network: Network) -> None:
        """Change what it may reach from now on. Raises CapabilityError."""
        ...

    async def stats(self) -> Usage:
        """What it uses now."""
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

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> Sandbox:
        """A fresh sandbox, or the one that was made before with the same token and still lives.

        Raises StartTimeout after the deadline, CapabilityError for a spec that it cannot fulfil, SandboxError, MissingRuntime.
        """
        ...

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """Destroy what processes that are gone left behind, or what that owner made (backends/owner.py). Returns ids."""
        ...

    async def aclose(self) -> None:
        """Destroy everything that this backend made."""
        ...


BACKENDS: Registry[type[Backend]] = Registry(
    "backend",
    {
        "docker": "backends.docker:DockerBackend",
        "local": "backends.local:LocalBackend",
        "modal": "backends.modal:ModalBackend",
        "singularity": "backends.singularity:SingularityBackend",
        "ssh": "backends.ssh:SshBackend",
        "unsafe-local": "backends.unsafe_local:UnsafeLocalBackend",
    },
)


def host_path(path: Path) -> str:
    """An absolute host path with symbolic links resolved, as `SandboxSpec.readonly` wants it."""
    return str(path.resolve())
