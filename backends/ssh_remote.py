"""One host behind ssh: its connections, and programs on it that are spoken to as bytes.

An sshd allows few channels on a connection (ten, unless its MaxSessions says otherwise), so there are several connections.
"""

import asyncio
import json
import shlex
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from zlib import compress

import asyncssh
from pydantic import Field

from backends.base import BackendUnavailable, CapacityExhausted, Cause, SandboxError, SandboxLost
from core.config import Config
from core.errors import ConfigError, MissingRuntime
from core.types import JsonObject

FAR = Path(__file__).with_name("ssh_far.py")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHUNK_BYTES = 1 << 16
GREETING_BYTES = 1 << 18
ANSWER_BYTES = 1 << 22
ANSWER_SECONDS = 60.0
MESSAGE_BYTES = 2000
CLOSE_SECONDS = 5.0
# asyncssh's first choice, ChaCha20, is put together in Python for every packet, which takes a tenth of a millisecond
CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"


class SshConfig(Config):
    """The section `backend` of a run's file for the backend `ssh`: which host, and how to log in there."""

    host: str = Field(default="", description="name or address of the machine that holds the sandboxes")
    port: int = Field(default=22, ge=1, le=65535)
    user: str = Field(default="", description="empty: as here")
    known_hosts: Path = Field(default=Path("~/.ssh/known_hosts"), description="keys of hosts; one that is not in it is refused")
    client_keys: tuple[Path, ...] = Field(default=(), description="private keys; none: those of the ssh agent and of ~/.ssh")
    ssh_config: Path | None = Field(default=None, description="an OpenSSH client configuration: jump hosts, aliases")
    python: str = Field(default="python3", description="an interpreter there, 3.9 or newer")
    keep: str = Field(default="~/.cache/natgym", description="the folder there in which the agent is kept")
    allow_unsafe: bool = Field(default=False, description="go on without walls where bubblewrap is missing there")
    sessions_per_connection: int = Field(default=8, ge=1, description="at most the MaxSessions of its sshd")
    max_connections: int = Field(default=16, ge=1)
    keepalive_seconds: float = Field(default=15.0, gt=0, description="a host that is silent three times as long is lost")
    connect_seconds: float = Field(default=30.0, gt=0)

    @property
    def place(self) -> str:
        """The host for messages."""
        return f"{self.host}:{self.port}"


@dataclass(eq=False)
class _Link:
    connection: asyncssh.SSHClientConnection
    used: int = 0


class RemoteHost:
    """Connections to one host, made when they are needed. `aclose` ends them and every program on them."""

    def __init__(self, config: SshConfig) -> None:
        self._config = config
        self._links: list[_Link] = []
        self._connecting = asyncio.Lock()

    async def ask(self, operation: str, order: JsonObject) -> JsonObject:
        """The answer of the far side to an order that it carries out at once (ssh_far.py). Raises SandboxError."""
        program = await self.start(operation, order)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = b""
                while (part := await program.receive()) and len(answer) <= ANSWER_BYTES:
                    answer += part
        except TimeoutError as error:
            raise BackendUnavailable(f"ssh {self._config.place}: no answer within {ANSWER_SECONDS:g} s") from error
        finally:
            await program.aclose()
            messages = await program.end(CLOSE_SECONDS)
        with suppress(ValueError):
            found = json.loads(answer) if len(answer) <= ANSWER_BYTES else None
            if isinstance(found, dict):
                return found
        raise SandboxError(f"ssh {self._config.place}: {operation} failed there: {messages or answer[:200]!r}")

    async def start(self, operation: str, order: JsonObject) -> "RemoteProgram":
        """A program on the host, which has got its order and which speaks for itself from now on."""
        mark = token_hex(16)
        with explained(self._config):
            link, process = await self._process(_command(self._config.python, operation, mark))
            program = RemoteProgram(process, lambda: self._released(link))
            try:
                body = json.dumps({"keep": self._config.keep, **order}).encode()
                await program.send(len(body).to_bytes(4, "big") + body)
                await program.skip_to(mark)
            except BaseException:
                await asyncio.shield(asyncio.get_running_loop().create_task(_give_up(program)))
                raise
        return program

    async def aclose(self) -> None:
        """End all connections."""
        links, self._links = self._links, []
        for link in links:
            link.connection.close()
        for link in links:
            with suppress(asyncssh.Error, OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await link.connection.wait_closed()

    async def _process(self, command: str) -> "tuple[_Link, asyncssh.SSHClientProcess[bytes]]":
        while True:
            link, fresh = await self._free_link()
            link.used += 1
            try:
                return link, await link.connection.create_process(command, encoding=None)
            except asyncssh.ChannelOpenError:
                # its sshd allows fewer sessions than we thought, or the connection is gone: not this one again
                self._links = [other for other in self._links if other is not link]
                self._released(link)
                if fresh:
                    raise
            except BaseException:
                self._released(link)
                raise

    async def _free_link(self) -> tuple[_Link, bool]:
        """A connection with room, and whether it was made just now."""
        async with self._connecting:  # one login at a time: an sshd drops some of many at once
            self._links = [link for link in self._links if not link.connection.is_closed()]
            for link in self._links:
                if link.used < self._config.sessions_per_connection:
                    return link, False
            if len(self._links) >= self._config.max_connections:
                room = self._config.max_connections * self._config.sessions_per_connection
                raise CapacityExhausted(f"ssh {self._config.place}: all {room} slots are taken")
            link = _Link(await _connect(self._config))
            self._links.append(link)
            return link, True

    def _released(self, link: _Link) -> None:
        link.used -= 1
        if link.used == 0 and link not in self._links:
            link.connection.close()


class RemoteProgram:
    """A ByteStream to a program on the far side, and the Host that holds it up."""

    def __init__(self, process: "asyncssh.SSHClientProcess[bytes]", release: Callable[[], None]) -> None:
        self._process, self._release = process, release
        self._rest = b""
        self._messages = bytearray()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def skip_to(self, mark: str) -> None:
        """Drop what a login shell printed before the mark. Raises SandboxError where it does not come."""
        line, found = mark.encode() + b"\n", b""
        while line not in found:
            part = await self.receive()
            found = (found + part)[-GREETING_BYTES:]
            if not part:
                await asyncio.wait([self._listening], timeout=1.0)
                raise MissingRuntime(f"ssh: the far side cannot start natgym's part: {self._said() or found[-500:]!r}")
        self._rest = found.partition(line)[2]

    async def receive(self) -> bytes:
        """See ByteStream.receive."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            return await self._process.stdout.read(CHUNK_BYTES)
        except (asyncssh.Error, OSError) as error:
            raise _lost(error) from error

    async def send(self, data: bytes) -> None:
        """See ByteStream.send."""
        try:
            for start in range(0, len(data), CHUNK_BYTES):
                self._process.stdin.write(data[start : start + CHUNK_BYTES])
                await self._process.stdin.drain()
        except (asyncssh.Error, OSError) as error:
            raise _lost(error) from error

    async def aclose(self) -> None:
        """See ByteStream.aclose: the program sees the end of its input, and ends."""
        with suppress(asyncssh.Error, OSError):
            self._process.stdin.write_eof()

    async def end(self, seconds: float) -> str:
        """See Host.end."""
        try:
            async with asyncio.timeout(seconds):
                while await self._process.stdout.read(CHUNK_BYTES):
                    pass
                await self._process.wait_closed()
        except (TimeoutError, asyncssh.Error, OSError):
            self._process.close()
            with suppress(TimeoutError, asyncssh.Error, OSError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._process.wait_closed()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._release()
        return self._said()

    def _said(self) -> str:
        return self._messages.decode("utf-8", "replace").strip()

    async def _listen(self) -> None:
        with suppress(asyncssh.Error, OSError):
            while part := await self._process.stderr.read(CHUNK_BYTES):
                self._messages = (self._messages + part)[-MESSAGE_BYTES:]


@contextmanager
def explained(config: SshConfig) -> Iterator[None]:
    """Errors of asyncssh as ours: what the user can mend is a ConfigError, the rest says that the host does not answer."""
    try:
        yield
    except asyncssh.HostKeyNotVerifiable as error:
        raise ConfigError(
            f"ssh {config.place}: its key is not the one in {config.known_hosts} ({error.reason}); compare the fingerprint "
            f"with its owner's, then: ssh-keyscan -p {config.port} {config.host} >>{config.known_hosts}"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise ConfigError(f"ssh {config.place}: no login as {config.user or 'this user'}: {error.reason}") from error
    except (asyncssh.KeyImportError, asyncssh.ConfigParseError) as error:
        raise ConfigError(f"ssh {config.place}: {error}") from error
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise BackendUnavailable(f"ssh {config.place}: {error or type(error).__name__}") from error


async def _connect(config: SshConfig) -> asyncssh.SSHClientConnection:
    known_hosts = config.known_hosts.expanduser()
    if not known_hosts.is_file():
        raise ConfigError(f"known_hosts {known_hosts}: does not exist; expected a file with the key of {config.host}")
    missing = next((key for key in config.client_keys if not key.expanduser().is_file()), None)
    if missing is not None:
        raise ConfigError(f"client_keys {missing}: does not exist; expected a private key")
    return await asyncssh.connect(
        config.host,
        config.port,
        known_hosts=str(known_hosts),
        config=None if config.ssh_config is None else [str(config.ssh_config.expanduser())],
        username=config.user or (),
        client_keys=[str(key.expanduser()) for key in config.client_keys] or (),
        preferred_auth="publickey",
        keepalive_interval=config.keepalive_seconds,
        keepalive_count_max=3,
        encryption_algs=CIPHERS if config.ssh_config is None else (),
        connect_timeout=config.connect_seconds,
        login_timeout=config.connect_seconds,
    )


def _command(python: str, operation: str, mark: str) -> str:
    """One line that every login shell understands; its start-up files change nothing for us but time."""
    text = b64encode(compress(FAR.read_bytes(), 9)).decode()
    source = f"import binascii, zlib; exec(zlib.decompress(binascii.a2b_base64('{text}')))"
    program = f"__name__ = 'far'; {source}; main('{operation}', '{mark}')"
    return f"exec env -i PATH={PATH} LANG=C.UTF-8 {shlex.quote(python)} -I -S -B -c {shlex.quote(program)}"


def _lost(error: Exception) -> SandboxLost:
    return SandboxLost(f"the connection broke: {error or type(error).__name__}", cause=Cause.LINK)


async def _give_up(program: RemoteProgram) -> None:
    await program.aclose()
    await program.end(0)
