"""Sandboxes on another machine, over ssh: behind bubblewrap there, with the walls of the backend `local`.

The host's key must be known. Nothing has to be installed there but sshd, Python and bubblewrap; the agent is sent once.
Many sandboxes share a host, a few of them a connection. The agent of each ends, with everything that it started, when
its connection does; where the host hears of that late, `reap` finds what is left of processes that are gone.
"""

import asyncio
from base64 import b64encode
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import PurePosixPath
from time import time
from typing import TypeVar
from uuid import uuid4

from pydantic import Field, ValidationError

from backends.agent_bundle import agent_command, agent_source
from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import (
    Capabilities,
    CapabilityError,
    Feature,
    Limit,
    Network,
    SandboxError,
    SandboxSpec,
    Tier,
)
from backends.bubblewrap import AGENT, SYSTEM, Machine, refuse_places, walls
from backends.channel import Channel
from backends.owner import is_gone, this_owner
from backends.sandboxes import Sandboxes
from backends.ssh_far import CREATED, OWNER
from backends.ssh_remote import PATH, RemoteHost, SshConfig
from backends.staging import UNPRIVILEGED
from backends.start import STDIO, hello, shake_hands
from core.errors import ConfigError, MissingRuntime
from core.logs import get_logger
from core.types import JsonObject, Value

log = get_logger("ssh")

FIRST_DESCRIPTOR = 20
LIMITS = "processes, address space and file size by rlimits, disk by sized tmpfs"


class Facts(Value):
    """What the far side says of itself. It is believed: whoever owns that machine owns the sandboxes too."""

    user: int = Field(ge=0)
    machine: str
    system: Mapping[str, str]
    kept: tuple[str, ...]
    bubblewrap: str
    python: str
    prefix: str
    missing: tuple[str, ...] = ()


class _Found(Value):
    found: tuple[tuple[str, str, str, float], ...]
    """Pid, when it started, owner, age in seconds."""


class _Ended(Value):
    ended: tuple[str, ...]


V = TypeVar("V", bound=Value)


class SshBackend:
    """Sandboxes on one host behind ssh. Paths of a spec are paths of that host."""

    name = "ssh"
    config_type = SshConfig

    def __init__(self, config: SshConfig | None = None) -> None:
        self.config = config or SshConfig()
        self._host = RemoteHost(self.config)
        self._sandboxes = Sandboxes()
        self._facts: Facts | None = None
        self._preparing = asyncio.Lock()

    async def probe(self) -> Capabilities:
        """See Backend.probe. Makes a sandbox there and destroys it. Raises ConfigError where the host's key is not known."""
        sandbox = await self.create(SandboxSpec())
        await sandbox.destroy()
        facts = await self._prepared()
        if not facts.bubblewrap:
            detail = f"{self.config.place}, without bubblewrap: no walls but the machine's; limits: time, output"
            features = frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK})
            return Capabilities(backend=self.name, tier=Tier.UNSAFE, detail=detail, features=features)
        return Capabilities(
            backend=self.name,
            tier=Tier.NAMESPACES,
            detail=f"{self.config.place}: bubblewrap there; no network; limits: {LIMITS}",
            private_pids=True,
            no_network=True,
            hides_host=True,
            limits=frozenset({Limit.PROCESSES, Limit.DISK}),
            features=frozenset({Feature.RESET, Feature.SNAPSHOT, Feature.FORK}),
        )

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        """See Backend.create. Raises ConfigError for a path that does not exist there."""
        if not self.config.host:
            raise ConfigError(
                "the backend 'ssh' needs a host: backend.host = NAME in the run's file, or --set backend.host=NAME"
            )
        if spec.network is not Network.NONE:
            raise CapabilityError("the backend 'ssh' gives no sandbox a network; docker and modal do")
        if spec.image:
            raise CapabilityError(f"the backend 'ssh' runs no images, found {spec.image!r}; docker, singularity and modal do")
        return await self._sandboxes.create(lambda: self._make(spec), token, deadline_seconds)

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """See Backend.reap. A process of another machine than this one cannot be seen, so only its name reaps what it left."""
        if not self.config.host:
            return ()
        found = await self._ask(_Found, "find", {})
        chosen = [
            (pid, started)
            for pid, started, label, age in found.found
            if (is_gone(label) if owner is None else label == owner) and age >= older_than_seconds
        ]
        if not chosen:
            return ()
        ended = await self._ask(_Ended, "end", {"found": [[*one] for one in chosen]})
        return tuple(f"{self.config.place}/{pid}" for pid in ended.ended)

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self._sandboxes.aclose()
        await self._host.aclose()

    async def _make(self, spec: SandboxSpec) -> AgentSandbox:
        facts = await self._prepared()
        await self._refuse_paths(spec)
        hooks = Hooks(self._sandboxes.forget, another=lambda: self.create(spec))
        order, words = _walled(spec, facts) if facts.bubblewrap else _unwalled(spec, facts)
        program = await self._host.start("launch" if facts.bubblewrap else "launch_in_folder", order)
        try:
            return await shake_hands(Channel.over(program), program, words, hooks)
        except SandboxError as error:
            if "bwrap: " not in str(error):
                raise
            raise MissingRuntime(f"ssh {self.config.place}: bubblewrap cannot build its walls there: {error}") from error

    async def _prepared(self) -> Facts:
        """What is there; what sandboxes are made of is kept there from then on."""
        async with self._preparing:
            if self._facts is None:
                facts = await self._ask_facts(_files(""))
                files = _files(facts.machine)
                if missing := files.keys() - set(facts.kept):
                    facts = await self._ask_facts(files, send=missing)
                self._refuse_unsafe(facts)
                self._facts = facts
            return self._facts

    async def _ask_facts(self, files: Mapping[str, bytes], *, send: Collection[str] = (), paths: Collection[str] = ()) -> Facts:
        sent: JsonObject = {digest: b64encode(files[digest]).decode() for digest in send}
        return await self._ask(Facts, "prepare", {"files": sent, "wanted": [*files], "system": [*SYSTEM], "paths": [*paths]})

    async def _ask(self, kind: type[V], operation: str, order: JsonObject) -> V:
        answer = await self._host.ask(operation, order)
        try:
            return kind.model_validate(answer)
        except ValidationError as error:
            raise SandboxError(f"ssh {self.config.place}: an answer that is none: {str(answer)[:200]}") from error

    async def _refuse_paths(self, spec: SandboxSpec) -> None:
        refuse_places(spec)
        if spec.readonly and (missing := (await self._ask_facts({}, paths=spec.readonly)).missing):
            raise ConfigError(
                f"sandbox path {missing[0]}: does not exist on {self.config.place}; expected a path of that machine"
            )

    def _refuse_unsafe(self, facts: Facts) -> None:
        if facts.bubblewrap:
            return
        if not self.config.allow_unsafe:
            raise MissingRuntime(
                f"ssh {self.config.place}: there is no bubblewrap: apt-get install bubblewrap there, or set "
                "backend.allow_unsafe = true to run commands without walls"
            )
        log.warning("commands_run_without_walls", host=self.config.place, instead="bubblewrap there")


class _Files:
    """What the far side keeps by its content, as descriptors of what is started there."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.opened: list[list[int | str]] = []

    def file(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        self.content[digest] = data
        self.opened.append([FIRST_DESCRIPTOR + len(self.opened), digest])
        return str(self.opened[-1][0])


def _files(machine: str) -> dict[str, bytes]:
    """Everything that sandboxes on such a machine are made of, by its digest."""
    kept = _Files()
    for _ in walls(SandboxSpec(), {}, kept.file, Machine(machine, {}, agent_source())):
        pass
    return kept.content


def _walled(spec: SandboxSpec, facts: Facts) -> tuple[JsonObject, JsonObject]:
    """The order for one sandbox behind bubblewrap, and the first words to its agent."""
    kept = _Files()
    outside = not facts.python.startswith("/usr/")
    shown = {**({facts.prefix: facts.prefix} if outside else {}), **spec.readonly}
    machine = Machine(facts.machine, facts.system, agent_source())
    options = [word for option in walls(spec, shown, kept.file, machine) for word in option]
    argv = [facts.bubblewrap, *options, "--", *agent_command(facts.python, AGENT, STDIO)]
    user = UNPRIVILEGED if facts.user == 0 else None  # the kernel does not limit root's processes
    return _order(argv, kept, user=user), hello(spec, isolated=True)


def _unwalled(spec: SandboxSpec, facts: Facts) -> tuple[JsonObject, JsonObject]:
    """The order for one sandbox that is a folder, and the first words to its agent."""
    moved = next((source for source, inside in spec.readonly.items() if source != inside), None)
    if moved is not None:
        raise ConfigError(f"sandbox path {moved} as {spec.readonly[moved]}: without walls it must keep its place")
    kept, folder = _Files(), PurePosixPath("/tmp") / f"natgym-{uuid4().hex}"  # noqa: S108
    workspace, temporary = str(folder / "workspace"), str(folder / "tmp")
    agent = kept.file(agent_source())
    spec = spec.model_copy(update={"env": {"HOME": temporary, "TMPDIR": temporary, **spec.env}})
    order = _order(agent_command(facts.python, f"/proc/self/fd/{agent}", STDIO), kept)
    order = {**order, "folder": str(folder), "folders": ["workspace", "tmp"]}
    return order, hello(spec, workspace=workspace, isolated=False, writable=(workspace, temporary))


def _order(argv: list[str], kept: _Files, *, user: int | None = None) -> JsonObject:
    env = {"PATH": PATH, "LANG": "C.UTF-8", OWNER: this_owner(), CREATED: f"{time():.0f}"}
    return {"argv": [*argv], "files": [*kept.opened], "user": user, "env": {**env}}  # type: ignore[list-item]
