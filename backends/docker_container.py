"""The container of one docker sandbox: what the daemon is asked to make, the stream to its agent, and its end."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import ClientError
from pydantic import JsonValue

from backends.base import Cause, Network, SandboxSpec
from backends.channel import Channel
from backends.docker_door import OPENED, Door
from backends.memory_disks import SHM_MIB, files_on, memory_of
from backends.owner import CREATED_LABEL, LABEL, TOKEN_LABEL
from backends.start import AGENT_PROCESSES
from core.types import JsonObject

if TYPE_CHECKING:
    from aiodocker import Docker
    from aiodocker.stream import Stream

USER = 1000
OPEN_FILES = 4096
CPU_PERIOD_MICROSECONDS = 100_000
MESSAGE_BYTES = 2000
REMOVE_SECONDS = 30.0  # a busy daemon takes seconds
NETWORKS = {Network.NONE: "none", Network.OPEN: "bridge"}
"""The daemon's own networks, which every daemon has."""
STDOUT = 1  # of the two streams that the daemon mixes into one


def container_config(
    spec: SandboxSpec, image: str, command: Sequence[str], shown: Mapping[str, str], labels: Mapping[str, str]
) -> JsonObject:
    """What to POST to /containers/create. `shown`: host path -> path inside, read only."""
    memory = memory_of(spec)
    return {
        "Image": image,
        "Entrypoint": [command[0]],
        "Cmd": list(command[1:]),
        "User": f"{USER}:{USER}",
        "Hostname": "sandbox",
        "WorkingDir": "/",
        "Env": [],
        "Labels": dict(labels),
        "OpenStdin": True,
        "StdinOnce": True,  # the agent's input ends with the one connection to it, and with that the agent
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "NetworkDisabled": False,
        "HostConfig": {
            "AutoRemove": True,
            "Mounts": [_bind(source, inside) for source, inside in shown.items()],
            "NetworkMode": NETWORKS[spec.network],
            "IpcMode": "none",  # private, and without a /dev/shm of docker's, which would hold as many files as memory does
            "CgroupnsMode": "private",
            "ReadonlyRootfs": True,
            "Tmpfs": {
                **dict.fromkeys(("/workspace", "/tmp"), memory_disk(spec.disk_mib, USER, "0755")),  # noqa: S108
                "/dev/shm": memory_disk(SHM_MIB, USER, "0755"),  # noqa: S108
            },
            "CapDrop": ["ALL"],
            "Privileged": False,
            "Init": False,
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
            "PidsLimit": spec.processes + AGENT_PROCESSES,
            "Memory": memory,
            "MemorySwap": memory,  # memory and swap together, so no swap
            "CpuPeriod": CPU_PERIOD_MICROSECONDS,  # as NanoCpus, a daemon with fewer processors than that would refuse it
            "CpuQuota": int(spec.cpus * CPU_PERIOD_MICROSECONDS),
            "Ulimits": [{"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES}, {"Name": "core", "Soft": 0, "Hard": 0}],
            **_security(spec),
        },
    }


def memory_disk(mib: int, user: int, mode: str) -> str:
    """The options of one, of a user's own."""
    return f"rw,nosuid,nodev,exec,uid={user},gid={user},mode={mode},size={mib}m,nr_inodes={files_on(mib)}"


def labels(owner: str, created: float, token: str) -> dict[str, str]:
    """What says later whose container it is."""
    return {LABEL: owner, CREATED_LABEL: f"{created:.0f}", TOKEN_LABEL: token}


class AttachedStream:
    """The ByteStream to an agent that is a container's first process; what it says on standard error is kept aside."""

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream
        self._errors = bytearray()

    async def open(self) -> None:
        """Connect. Raises what the library raises."""
        await self._stream.__aenter__()

    async def receive(self) -> bytes:
        """See ByteStream.receive."""
        with _as_os_error():
            while (message := await self._stream.read_out()) is not None:
                if message.stream == STDOUT and message.data:
                    return message.data
                self._errors += message.data
                del self._errors[:-MESSAGE_BYTES]
        return b""

    async def send(self, data: bytes) -> None:
        """See ByteStream.send."""
        with _as_os_error():
            await self._stream.write_in(data)

    async def aclose(self) -> None:
        """See ByteStream.aclose."""
        with suppress(ClientError, OSError, AssertionError):  # the library asserts that the connection still stands
            await self._stream.close()

    def messages(self) -> str:
        """The end of what came on standard error."""
        return self._errors.decode("utf-8", "replace").strip()


class Container:
    """The Host of a docker sandbox. Owns the client of its stream, so that no pool of connections bounds their number."""

    def __init__(self, client: "Docker", name: str, stream: AttachedStream) -> None:
        self.client, self.name, self._stream = client, name, stream
        self._watching: asyncio.Task[None] | None = None

    async def channel(self, door: Door | None) -> Channel:
        """The way to its agent: through the door where it calls there, else over the attached streams. Called once."""
        if door is None or not await self._calls():
            return Channel.over(self._stream)
        channel = await Channel.open(await door.caller())
        self._watching = asyncio.get_running_loop().create_task(self._watch(channel))
        return channel

    async def end(self, seconds: float) -> str:
        """See Host.end: removed at once, with everything in it; there is nothing in it to wait for but the daemon."""
        seconds = max(seconds, REMOVE_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                await remove(self.client, self.name)
        except TimeoutError:
            return f"container {self.name} was not removed within {seconds:g} s; `reap` removes it later"
        finally:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.gather(self._watching, return_exceptions=True)
            await self._stream.aclose()
            await self.client.close()
        return self._stream.messages()

    async def _calls(self) -> bool:
        with suppress(OSError):
            return await self._stream.receive() == OPENED
        return False

    async def _watch(self, channel: Channel) -> None:
        """Keep aside what comes on standard error. A container that the daemon lets go of is lost, as its network is."""
        with suppress(OSError):
            while await self._stream.receive():
                pass
        channel.lose("the daemon let go of the container", cause=Cause.LINK)


async def remove(client: "Docker", name: str) -> None:
    """Kill a container and wait until it is gone. One that is gone already is fine, so is a daemon that is."""
    from aiodocker import DockerError

    container = client.containers.container(name)
    with suppress(DockerError, ClientError, OSError):
        await container.delete(force=True, v=True)
    with suppress(DockerError, ClientError, OSError):
        await container.wait(condition="removed")


def _bind(source: str, inside: str) -> JsonObject:
    options: JsonObject = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": inside, "ReadOnly": True, "BindOptions": options}


def _security(spec: SandboxSpec) -> JsonObject:
    options: list[JsonValue] = ["no-new-privileges"]
    if not spec.nested_namespaces:
        return {"SecurityOpt": options}
    # a fresh /proc in a namespace inside is forbidden while parts of this one are covered
    return {"SecurityOpt": [*options, "seccomp=unconfined", "apparmor=unconfined"], "MaskedPaths": [], "ReadonlyPaths": []}


class _as_os_error:  # noqa: N801 reads as a function
    """What the HTTP library raises for a broken connection, as the OSError that a ByteStream may raise."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (ClientError, RuntimeError, AssertionError)):
            raise ConnectionResetError(f"the daemon closed the stream: {error}") from error
