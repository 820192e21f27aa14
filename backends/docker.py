"""Sandboxes as docker containers: the agent is the first process, spoken to over a socket or the attached streams.

Inside: an image, or where the spec names none this machine's own system directories, read only; /workspace, /tmp and
/dev/shm as memory of a fixed size; user 1000 without capabilities; no network; limits by cgroups for processes, memory
and CPU. A container removes itself when its agent ends, and the agent ends when the connection to it does: nothing is
left of one whose maker was killed.
"""

import asyncio
import time
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import Field

from backends.agent_sandbox import AgentSandbox, Hooks
from backends.base import Capabilities, CapabilityError, Network, SandboxError, SandboxSpec
from backends.bubblewrap import binds, system_python
from backends.channel import Channel
from backends.confined import Confinement, confined_command
from backends.docker_container import NETWORKS, AttachedStream, Container, container_config, labels, remove
from backends.docker_daemon import capabilities, connect, explained, own_image
from backends.docker_door import INSIDE, Door, opened_door
from backends.docker_slots import SlotContainers, Users, slots_promise, with_slots
from backends.images.host_root import system_binds
from backends.owner import LABEL, is_gone, this_owner
from backends.sandboxes import Sandboxes
from backends.start import STDIO, hello, shake_hands
from core.config import Config
from core.logs import get_logger
from core.types import JsonObject

if TYPE_CHECKING:
    from aiodocker import Docker

log = get_logger("docker")

UNDO_SECONDS = 30.0


class DockerConfig(Config):
    """The section `backend` of a run's file for the backend `docker`."""

    slots: int = Field(default=1, ge=1, le=64, description="sandboxes in one container; more than one: of equal trust only")


class DockerBackend:
    """Sandboxes by a docker daemon. `url` is the daemon's address, by default the docker command's."""

    name = "docker"
    config_type = DockerConfig

    def __init__(self, config: DockerConfig | None = None, *, url: str | None = None) -> None:
        self.config = config or DockerConfig()
        self._url = url
        self._shared = SlotContainers(self.config.slots, self._slot_container)
        self._client: Docker | None = None
        self._machine = self._own_image = ""
        self._doors = False
        self._lock = asyncio.Lock()
        self._sandboxes = Sandboxes()

    async def probe(self) -> Capabilities:
        """See Backend.probe. Makes a sandbox and destroys it."""
        sandbox = await self.create(SandboxSpec())
        await sandbox.destroy()
        daemon = await self._daemon()
        with explained():
            found = capabilities(await daemon.system.info())
        return found if self.config.slots == 1 else slots_promise(found, self.config.slots)

    async def create(self, spec: SandboxSpec, *, token: str = "", deadline_seconds: float = 60.0) -> AgentSandbox:
        """See Backend.create. Raises ImageError for an image that the daemon does not have, or that has no python3."""
        return await self._sandboxes.create(lambda: self._make(spec, token), token, deadline_seconds)

    async def reap(self, *, owner: str | None = None, older_than_seconds: float = 0.0) -> tuple[str, ...]:
        """See Backend.reap. Looks at all containers of the daemon that carry natgym's label."""
        daemon = await self._daemon()
        newest = time.time() - older_than_seconds
        with explained():
            found = await daemon.containers.list(all=True, filters=f'{{"label": ["{LABEL}"]}}')
        names = [
            str(container["Names"][0]).removeprefix("/")
            for container in found
            if container["Created"] <= newest and _may_be_reaped(container["Labels"][LABEL], owner)
        ]
        await asyncio.gather(*(remove(daemon, name) for name in names))
        return tuple(names)

    async def aclose(self) -> None:
        """See Backend.aclose."""
        await self._sandboxes.aclose()
        await self._shared.aclose()
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _daemon(self) -> "Docker":
        """The client for everything but streams; the daemon has answered to it once."""
        async with self._lock:
            if self._client is None:
                client = await connect(self._url)
                try:
                    with explained(first=True):
                        self._machine = (await client.version())["Arch"]
                except BaseException:
                    await client.close()
                    raise
                self._client = client
                self._doors = client.docker_host.startswith("unix:")
            return self._client

    async def _make(self, spec: SandboxSpec, token: str) -> AgentSandbox:
        hooks = Hooks(self._sandboxes.forget, another=lambda: self.create(spec))
        if self.config.slots > 1:
            if spec.nested_namespaces:
                raise CapabilityError("in a slot nothing can make namespaces; set backend.slots = 1")
            return await self._shared.make(spec, hooks)
        container, channel = await self._opened(spec, labels(this_owner(), time.time(), token))
        hooks = hooks._replace(set_network=lambda network: self._set_network(container.name, network))
        return await shake_hands(channel, container, _greeting(spec), hooks)

    async def _slot_container(self, spec: SandboxSpec, users: Users) -> AgentSandbox:
        """A container for sandboxes that start in it later. Its own limits are theirs together."""
        container, channel = await self._opened(spec, labels(this_owner(), time.time(), ""), users)
        words = {**hello(spec, isolated=True, writable=()), "limits": {"RLIMIT_CORE": 0}}
        return await shake_hands(channel, container, words, Hooks(_nobody_holds_it))

    async def _opened(
        self, spec: SandboxSpec, labelled: dict[str, str], users: Users | None = None
    ) -> tuple[Container, Channel]:
        """A running container, with slots where users are given, and the way to its agent."""
        shown, image, python = binds(spec), spec.image, "python3"
        daemon = await self._daemon()
        if image:
            shown = dict(spec.readonly)
        else:
            shown, image, python = {**system_binds(), **shown}, await self._image(daemon), str(system_python())
        how = Confinement(spec.nested_namespaces, _uname(self._machine), keeps_capabilities=users is not None)

        async def start(door: Door | None) -> tuple[Container, Channel]:
            words = confined_command(python, STDIO, how._replace(door=INSIDE if door else ""))
            config = container_config(spec, image, words, {**shown, **({door.path: INSIDE} if door else {})}, labelled)
            config = config if users is None else with_slots(config, spec, users)
            return await self._start(config, daemon.api_version, door)

        if self._doors and (door := opened_door()):
            with closing(door):
                try:
                    return await start(door)
                except SandboxError as error:
                    if door.path not in str(error):
                        raise
                    self._doors = False  # the daemon does not see our files
                    log.info("docker_attached_streams", reason=str(error))
        return await start(None)

    async def _image(self, daemon: "Docker") -> str:
        async with self._lock:
            if not self._own_image:
                with explained():
                    self._own_image = await own_image(daemon)
            return self._own_image

    async def _start(self, config: JsonObject, api_version: str, door: Door | None) -> tuple[Container, Channel]:
        """A running container and the way to its agent; whatever happens, none is left that nobody holds."""
        client, name = await connect(self._url, api_version), f"natgym-{uuid4().hex[:16]}"
        starting = asyncio.get_running_loop().create_task(_start(client, name, config))
        try:
            stream = await asyncio.shield(starting)
        except BaseException:
            await asyncio.shield(asyncio.get_running_loop().create_task(_undo(starting, client, name)))
            raise
        container = Container(client, name, stream)
        try:
            return container, await container.channel(door)
        except BaseException:
            await asyncio.shield(asyncio.get_running_loop().create_task(container.end(UNDO_SECONDS)))
            raise

    async def _set_network(self, name: str, network: Network) -> None:
        daemon = await self._daemon()
        with explained():
            attached = (await daemon.containers.get(name))["NetworkSettings"]["Networks"]
            if NETWORKS[network] in attached:
                return
            for other in attached:
                await (await daemon.networks.get(other)).disconnect({"Container": name, "Force": True})
            await (await daemon.networks.get(NETWORKS[network])).connect({"Container": name})


async def _start(client: "Docker", name: str, config: JsonObject) -> AttachedStream:
    with explained(str(config["Image"])):
        container = await client.containers.create(config, name=name)
        stream = AttachedStream(container.attach(stdin=True, stdout=True, stderr=True))
        try:
            await stream.open()  # before the start, or the agent's first words are lost
            await container.start()
        except BaseException:
            await stream.aclose()
            raise
    return stream


async def _undo(starting: "asyncio.Task[AttachedStream]", client: "Docker", name: str) -> None:
    await asyncio.wait([starting], timeout=UNDO_SECONDS)
    starting.cancel()
    (stream,) = await asyncio.gather(starting, return_exceptions=True)
    if isinstance(stream, AttachedStream):
        await stream.aclose()
    await remove(client, name)
    await client.close()


def _greeting(spec: SandboxSpec) -> JsonObject:
    """The first words to an agent, whose commands the container bounds in number.

    The kernel's own limit would count the processes of every container together with those of this machine's user 1000.
    """
    words = hello(spec, isolated=True)
    limits = words["limits"]
    assert isinstance(limits, dict)
    return {**words, "limits": {name: value for name, value in limits.items() if name != "RLIMIT_NPROC"}}


async def _nobody_holds_it(sandbox: AgentSandbox) -> None:
    """A container with slots is given to nobody as a whole."""


def _may_be_reaped(label: str, owner: str | None) -> bool:
    return is_gone(label) if owner is None else label == owner


def _uname(architecture: str) -> str:
    """The daemon's word for a machine as `uname -m` says it."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(architecture, architecture)
