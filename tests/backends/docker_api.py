"""A daemon that speaks docker's HTTP interface and runs nothing: for what cannot be asked of a real one.

In place of a container's agent it answers every request with success, but for `exec`, which it leaves open. It goes through no
door: what it says comes over the attached streams.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from backends.agent.frames import pack, take_request
from backends.docker_door import INSIDE

VERSION = {"Version": "99", "ApiVersion": "1.41", "Arch": "amd64", "Os": "linux"}
INFO = {"ServerVersion": "99", "DefaultRuntime": "runc", "PidsLimit": True, "MemoryLimit": True, "CpuCfsQuota": True}
CREATE = {
    **dict.fromkeys(("Image", "User", "Hostname", "WorkingDir"), str),
    **dict.fromkeys(("OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "NetworkDisabled"), bool),
    **dict.fromkeys(("Env", "Entrypoint", "Cmd"), list),
    **dict.fromkeys(("Labels", "HostConfig"), dict),
}
HOST_CONFIG = {
    **dict.fromkeys(("AutoRemove", "ReadonlyRootfs", "Privileged", "Init"), bool),
    **dict.fromkeys(("NetworkMode", "IpcMode", "CgroupnsMode"), str),
    **dict.fromkeys(("ShmSize", "PidsLimit", "Memory", "MemorySwap", "CpuPeriod", "CpuQuota"), int),
    **dict.fromkeys(("Mounts", "CapAdd", "CapDrop", "Ulimits", "SecurityOpt", "MaskedPaths", "ReadonlyPaths"), list),
    **dict.fromkeys(("Tmpfs", "Sysctls", "LogConfig", "RestartPolicy"), dict),
}
"""The fields of ContainerConfig and HostConfig in version 1.41 of the interface that may be sent, and their types."""


def doors(config: dict) -> list[str]:
    """The sockets of this machine that a container is shown."""
    return [mount["Source"] for mount in config["HostConfig"]["Mounts"] if mount["Target"] == INSIDE]


class DockerApi:
    """What the daemon was asked, and how it is to answer."""

    def __init__(self) -> None:
        self.containers: dict[str, dict] = {}
        self.created: list[dict] = []
        self.info = INFO
        self.refusals: dict[str, tuple[int, str]] = {}
        """The last word of a path -> status and message."""
        self.sees_files = True
        """Whether it runs where the files of this machine are."""
        self.before_create = asyncio.Event()
        self.before_create.set()
        self.links: list[asyncio.StreamWriter] = []
        self.agents: list[asyncio.StreamWriter] = []
        """Those of the links that are attached to a container."""

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[str]:
        """The address of the daemon, listening on a socket at `path`."""
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield f"unix://{path}"
        finally:
            self.before_create.set()
            server.close()
            for link in self.links:
                link.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.links.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                method, target, _ = head[0].split()
                words = urlsplit(target).path.removeprefix("/v1.41/").strip("/").split("/")
                if words[-1] == "attach":
                    writer.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
                    self.agents.append(writer)
                    if doors(self.containers[words[1]]):
                        self.say(writer, b"0")
                    return await self._be_agent(reader, writer)
                status, answer = await self._answer(method, words, parse_qs(urlsplit(target).query), body)
                text = json.dumps(answer).encode()
                writer.write(f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\n".encode())
                writer.write(f"Content-Length: {len(text)}\r\n\r\n".encode() + text)

    async def _answer(self, method: str, words: list[str], query: dict[str, list[str]], body: bytes) -> tuple[int, object]:
        if words[-1] in self.refusals:
            status, message = self.refusals[words[-1]]
            return status, {"message": message}
        if words == ["containers", "create"]:
            await self.before_create.wait()
            return self._create(query["name"][0], json.loads(body))
        if method == "DELETE":
            return (200, {}) if self.containers.pop(words[1], None) else (404, {"message": "No such container"})
        known = {"version": VERSION, "info": self.info, "start": {}, "wait": {"StatusCode": 137}}
        return 200, known.get(words[-1], {"Config": {"Tty": False}})

    def _create(self, name: str, config: dict) -> tuple[int, object]:
        wrong = [key for key, value in config.items() if not isinstance(value, CREATE.get(key, ()))]
        wrong += [key for key, value in config["HostConfig"].items() if not isinstance(value, HOST_CONFIG.get(key, ()))]
        if wrong:
            return 400, {"message": f"unknown fields or types: {wrong}"}
        if not self.sees_files and (shown := config["HostConfig"]["Mounts"]):
            where = shown[-1]["Source"]
            return 400, {"message": f'invalid mount config for type "bind": bind source path does not exist: {where}'}
        self.containers[name] = config
        self.created.append(config)
        return 201, {"Id": name}

    async def _be_agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        while data := await reader.read(1 << 16):
            received += data
            while (frame := take_request(received)) is not None:
                header, _ = frame
                if header.get("op") != "exec":
                    self.say(writer, pack({"id": header["id"]}, 0))

    @staticmethod
    def say(writer: asyncio.StreamWriter, data: bytes, stream: int = 1) -> None:
        """Send bytes as one of the two streams that the daemon mixes into one."""
        writer.write(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data)
