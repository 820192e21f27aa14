"""Commands behind Landlock and seccomp, for machines on which no namespace can be made.

What holds: a command reads the system's programs and the paths of the spec, and writes its own two directories; it has no
network, its own loopback included; it cannot signal, trace or starve a process outside of its command; what it started is
found by the agent, which adopts orphans. What does not hold: the machine's processes are in sight, memory and disk are
bounded for each process and file only, and the number of processes not at all.
"""

import os
from pathlib import Path

from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, CapabilityError, Feature, SandboxError, SandboxSpec, Tier
from backends.bubblewrap import SYSTEM, system_python
from backends.confined import namespace_filter
from backends.private_directory import Place, PrivateDirectory
from backends.seccomp import filter_program, local_sockets_only
from backends.staging import UNPRIVILEGED
from core.errors import MissingRuntime
from core.types import JsonObject

READABLE = (
    *SYSTEM,
    *("/etc/alternatives", "/etc/ld.so.cache", "/etc/ssl/certs", "/etc/mime.types", "/etc/localtime"),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/proc"),
    *("/dev/zero", "/dev/urandom", "/dev/random", "/dev/full"),
)
WRITABLE_DEVICES = ("/dev/null",)


class Landlocked:
    """The walls that the kernel lends to any process."""

    def __init__(self) -> None:
        python = str(system_python())
        self._starter = PrivateDirectory(python, UNPRIVILEGED if os.geteuid() == 0 else None, _walls)

    def capabilities(self, backend: str) -> Capabilities:
        """What is enforced, given that a sandbox could be made."""
        return Capabilities(
            backend=backend,
            tier=Tier.LANDLOCK,
            detail="no namespaces: Landlock for files and signals, seccomp for system calls and sockets; no network; "
            "limits: address space and file size by rlimits",
            no_network=True,
            features=frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK}),
        )

    async def start(self, spec: SandboxSpec, hooks: Hooks) -> AgentSandbox:
        """A sandbox. Raises MissingRuntime where the kernel lacks something, CapabilityError for nested namespaces."""
        if spec.nested_namespaces:
            raise CapabilityError("Landlock alone gives a sandbox no namespaces of its own")
        if filter_program() is None:
            raise MissingRuntime("the system call filter knows no machine of this kind; x86_64 and aarch64 are known")
        try:
            return await self._starter.start(spec, hooks)
        except SandboxError as error:
            if "Landlock" not in str(error):
                raise
            raise MissingRuntime(f"this kernel's Landlock is not enough: {str(error).splitlines()[-1]}") from error


def _walls(spec: SandboxSpec, place: Place) -> JsonObject:
    filters = [filter_program(), namespace_filter(), local_sockets_only()]
    python = [] if system_python().is_relative_to("/usr") else [str(Path(system_python()).parents[1])]
    return {
        "read": [*READABLE, *python, *spec.readonly],
        "write": [*place.writable, *WRITABLE_DEVICES],
        "filters": [steps.hex() for steps in filters if steps is not None],
    }
