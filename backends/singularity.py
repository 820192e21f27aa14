"""Sandboxes by apptainer (or SingularityCE) in user-namespace mode: no daemon, no setuid program, no image to download.

Inside: an unpacked root directory or an image file, or where the spec names none this machine's own system directories,
read only; /workspace, /tmp and /dev/shm as memory, all of it together of a fixed size; no capability; no network. The
agent is the container's first process.

Started by root, apptainer runs as `nobody`: the kernel does not limit the number of root's processes.
"""

import csv
import os
import pwd
import shutil
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from backends import cgroups
from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import (
    Capabilities,
    CapabilityError,
    Feature,
    ImageError,
    Limit,
    Network,
    SandboxError,
    SandboxSpec,
    Tier,
)
from backends.bubblewrap import binds, system_python
from backends.bubblewrap_start import Grouped
from backends.confined import Confinement, confined_command
from backends.images.host_root import system_binds, write_root
from backends.memory_disks import files_on
from backends.sandboxes import Sandboxes
from backends.singularity_images import ImageFiles, plain
from backends.staging import everybody_reaches, stage, step_down
from backends.start import Launch, hello, start_sandbox
from core.errors import MissingRuntime

PROGRAMS = ("apptainer", "singularity")
WRITABLE = ("/workspace", "/tmp", "/dev/shm")  # noqa: S108
UNPRIVILEGED = "nobody"  # apptainer wants a user that is in /etc/passwd
OPTIONS = (
    *("exec", "--userns", "--containall", "--no-init", "--no-home", "--cleanenv"),
    *("--add-caps", "CAP_SYS_ADMIN,CAP_SETPCAP"),  # until the agent has made read only what is none of WRITABLE
    *("--net", "--network", "none", "--hostname", "sandbox", "--pwd", "/", "--scratch", ",".join(WRITABLE)),
)
CONFIG = """\
sessiondir max size = {mib}
mount sys = no
mount home = no
mount tmp = no
mount hostfs = no
mount devpts = yes
mount dev = minimal
enable overlay = try
enable underlay = yes
"""
GROUPED = "processes, memory and CPU of all commands by cgroups, disk"
UNGROUPED = "processes, address space and file size by rlimits, disk; no cgroup can be made here"
ENTER = 'count=$1; shift; while [ $count -gt 0 ]; do echo $$ >"$1" || exit 1; shift; count=$((count - 1)); done; exec "$@"'
INSTALL = "apt-get install apptainer, or see https://apptainer.org"


class SingularityBackend:
    """Sandboxes by apptainer. Keeps a directory with what they are made of until it is closed."""

    name = "singularity"

    def __init__(self, program: str = "") -> None:
        self._program = program
        self._sandboxes = Sandboxes()
        self._directory: TemporaryDirectory[str] | None = None
        self._images = ImageFiles(self._found, self._own, _user())

    async def probe(self) -> Capabilities:
        """See Backend.probe. Makes a sandbox and destroys it."""
        sandbox = await self.create(SandboxSpec())
        await sandbox.destroy()
        grouped = cgroups.hierarchies() is not None
        limits = {Limit.PROCESSES, Limit.DISK, *((Limit.MEMORY, Limit.CPU) if grouped else ())}
        how = GROUPED if grouped else UNGROUPED
        return Capabilities(
            backend=self.name,
            tier=Tier.CONTAINED if grouped else Tier.NAMESPACES,
            detail=f"{Path(self._found()).name} in user-namespace mode, no network; limits: {how}",
            private_pids=True,
            no_network=True,
            hides_host=True,
            limits=frozenset(limits),
            features=frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK}),
        )

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        """See Backend.create. Raises ImageError for an image that is no directory and no file, or has no python3."""
        if spec.network is not Network.NONE:
            raise CapabilityError("the backend 'singularity' gives no sandbox a network; docker and modal do")
        return await self._sandboxes.create(lambda: self._make(spec), token, deadline_seconds)

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """See Backend.reap. A sandbox ends with the socket of its maker; empty control groups are left to find."""
        return tuple(cgroups.reap())

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self._sandboxes.aclose()
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.cleanup()

    async def _make(self, spec: SandboxSpec) -> AgentSandbox:
        hooks = Hooks(self._sandboxes.forget, another=lambda: self.create(spec))
        program = self._found()
        root = await self._images.root_of(Path(spec.image)) if spec.image else self._own() / "root"
        found = cgroups.hierarchies()
        group = cgroups.Group(found, spec) if found else None
        try:
            launch = self._launch([*_entering(group), program], spec, root)
            return await start_sandbox(launch, hello(spec, isolated=True), Grouped(group, hooks).hooks())
        except BaseException as error:
            if group:
                group.remove()
            if not isinstance(error, SandboxError):
                raise
            meaning = _meaning(str(error), spec.image)
            if meaning is None:
                raise
            raise meaning from error

    def _launch(self, program: list[str], spec: SandboxSpec, root: Path) -> Launch:
        """`program` is apptainer and what goes before it. Root steps down between the two."""
        shown, python = {**system_binds(), **binds(spec)}, str(system_python())
        if spec.image:
            shown, python = dict(spec.readonly), "python3"
        prefix, user = [], _user()
        if user is not None:
            if not everybody_reaches(str(root)):
                raise ImageError(f"{root}: sandboxes run as {UNPRIVILEGED}; expected an image that every user can reach")
            reached = all(everybody_reaches(source) for source in shown)
            prefix, shown = (step_down(user), shown) if reached else stage(shown, user)
        mounts = [word for source, inside in shown.items() for word in ("--mount", _mount(source, inside))]
        options = ["--nocolor", "--silent", "--config", str(self._config(spec)), *OPTIONS, *mounts, str(root)]
        command = [*program[:-1], *prefix, program[-1], *options]

        def argv(end: int) -> list[str]:
            how = Confinement(nested_namespaces=spec.nested_namespaces, sealed=WRITABLE, files=files_on(spec.disk_mib))
            return [*command, *confined_command(python, str(end), how)]

        return Launch(argv)

    def _found(self) -> str:
        for program in [self._program] if self._program else PROGRAMS:
            if (path := shutil.which(program)) is not None:
                return path
        raise MissingRuntime(f"the backend 'singularity' needs apptainer: {INSTALL}")

    def _own(self) -> Path:
        """The directory with the root of this machine's own programs, and the configurations."""
        if self._directory is None:
            self._directory = TemporaryDirectory(prefix="natgym-apptainer-")
            own = Path(self._directory.name)
            own.chmod(0o755)
            (own / "root").mkdir()
            write_root(own / "root")
        return Path(self._directory.name)

    def _config(self, spec: SandboxSpec) -> Path:
        """apptainer's configuration is the only place where the size of its memory disks can be set."""
        path = self._own() / f"{spec.disk_mib}.conf"
        if not path.exists():
            path.write_text(CONFIG.format(mib=spec.disk_mib), encoding="ascii")
            path.chmod(0o644)
        return path


def _user() -> int | None:
    """Whom to step down to, where root runs us."""
    return pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None


def _entering(group: cgroups.Group | None) -> list[str]:
    """The words that run a command line in those groups: apptainer is put there before it starts anything."""
    return ["sh", "-c", ENTER, "sh", str(len(group.doors)), *group.doors] if group else []


def _mount(source: str, inside: str) -> str:
    """An argument of --mount, which is read as one line of CSV."""
    line = StringIO()
    csv.writer(line, lineterminator="").writerow(["type=bind", f"source={source}", f"destination={inside}", "ro"])
    return line.getvalue()


def _meaning(message: str, image: str) -> SandboxError | MissingRuntime | None:
    """What apptainer's complaint stands for; None where it is as good as any."""
    message = plain(message)
    if "user namespace" in message:
        return MissingRuntime(f"the backend 'singularity' may not make user namespaces here: {message}")
    if "--config requires" in message:
        return MissingRuntime(
            "the backend 'singularity' sets the size of memory disks, which apptainer's setuid program forbids its users; "
            f"install apptainer without it (apptainer, not apptainer-suid): {message}"
        )
    if "unknown userid" in message:
        return MissingRuntime(f"apptainer runs for users of /etc/passwd only: {message}")
    if image and "FATAL" in message:
        return ImageError(f"{image}: apptainer cannot run natgym's agent in it; expected an image with python3 ({message})")
    return None
