"""What a case of the suite is, and where it runs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from backends.base import Backend, Capabilities, ExecResult, Feature, Limit, Sandbox, SandboxSpec

SPEC = SandboxSpec(processes=64, memory_mib=512, disk_mib=64)


@dataclass
class Place:
    """One backend, what it says of itself, and a fresh sandbox of it."""

    backend: Backend
    capabilities: Capabilities
    sandbox: Sandbox

    async def sh(self, command: str, *, timeout_seconds: float = 30, max_output: int = 1 << 20) -> ExecResult:
        """Run a line of bash."""
        return await self.sandbox.exec(["bash", "-c", command], timeout_seconds=timeout_seconds, max_output=max_output)

    async def text(self, command: str) -> str:
        """What a line of bash prints; it must end well."""
        result = await self.sh(command)
        assert (result.exit_code, result.stderr) == (0, b""), result
        return result.stdout.decode()

    async def python(self, program: str, *, timeout_seconds: float = 30) -> ExecResult:
        """Run a Python program."""
        return await self.sandbox.exec(["python3", "-I", "-S", "-c", program], timeout_seconds=timeout_seconds)


Need = Limit | Feature | str
"""A limit that must be enforced, a feature, or the name of a truth value of Capabilities."""


@dataclass(frozen=True)
class Case:
    """One promise. `dangerous`: it would harm the machine where the sandbox had no processes of its own."""

    name: str
    run: Callable[[Place], Awaitable[None]]
    needs: tuple[Need, ...] = ()
    dangerous: bool = False
    spec: SandboxSpec = field(default=SPEC)

    def lacking(self, capabilities: Capabilities) -> str:
        """What a backend lacks for this case, in words; empty where it lacks nothing."""
        for need in self.needs:
            if isinstance(need, Limit):
                there = need in capabilities.limits
            elif isinstance(need, Feature):
                there = need in capabilities.features
            else:
                there = bool(getattr(capabilities, need))
            if not there:
                return f"{capabilities.backend} (tier {capabilities.tier.value}) does not promise {need}"
        return ""


class Cases:
    """A file of cases. Used as a decorator of functions that take a Place."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.all: list[Case] = []

    def __call__(self, *needs: Need, dangerous: bool = False, spec: SandboxSpec = SPEC):
        def add(run: Callable[[Place], Awaitable[None]]) -> Callable[[Place], Awaitable[None]]:
            name = f"{self.group}: {run.__name__.replace('_', ' ')}"
            self.all.append(Case(name, run, needs, dangerous, spec))
            return run

        return add

    def table(self, what: str, rows: dict[str, str], *needs: Need, dangerous: bool = False, spec: SandboxSpec = SPEC):
        """One case for each row; the function takes a Place and the row's text."""

        def add(run: Callable[[Place, str], Awaitable[None]]) -> Callable[[Place, str], Awaitable[None]]:
            for name, text in rows.items():
                one = lambda place, text=text: run(place, text)  # noqa: E731 a function for each row
                self.all.append(Case(f"{self.group}: {what}, {name}", one, needs, dangerous, spec))
            return run

        return add


def pid_namespace(pid: int | str = "self") -> str:
    """The pid namespace of a process of this machine, as the kernel names it."""
    return str(Path("/proc", str(pid), "ns", "pid").readlink())
