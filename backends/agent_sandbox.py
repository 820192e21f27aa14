"""A sandbox with an agent in it (backends/agent), whatever walls a backend built around that agent."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

from pydantic import JsonValue

from backends import transfers
from backends.agent.frames import MAX_NAMES_BYTES
from backends.agent_process import (
    ANSWER_SECONDS,
    AgentProcess,
    AgentSession,
    answer_seconds,
    cancel,
    command_fields,
    exec_result,
)
from backends.agent_replies import Answer, ExecAnswer, SnapshotAnswer, UsageAnswer, checked
from backends.base import (
    CapabilityError,
    ExecResult,
    Network,
    Process,
    SandboxError,
    SessionKind,
    Usage,
)
from backends.channel import Channel, Reply
from core.logs import get_logger
from core.types import JsonObject

log = get_logger("sandbox")

PING_SECONDS = 5.0
COPY_SECONDS = 120.0  # keeping or putting back the files of a whole sandbox
END_SECONDS = 8.0  # an agent gives up on a process that will not die after 5 s


class Host(Protocol):
    """What holds a sandbox up: a process, a container, a remote program."""

    async def end(self, seconds: float) -> str:
        """Wait that long for its end, then force it. Returns the end of what it complained of. Awaited once."""
        ...


class Hooks(NamedTuple):
    """What a sandbox asks of its backend."""

    free: Callable[["AgentSandbox"], Awaitable[None]]
    """It was destroyed."""
    another: Callable[[], Awaitable["AgentSandbox"]] | None = None
    """Make another sandbox of the same spec."""
    set_network: Callable[[Network], Awaitable[None]] | None = None
    oom_kills: Callable[[], int] | None = None
    """How many of its processes the kernel has killed for their memory so far."""


class AgentSandbox:
    """The Sandbox contract over a channel to an agent. Backends make it with backends/start.py."""

    def __init__(self, channel: Channel, host: Host, hooks: Hooks) -> None:
        self.id = uuid4().hex[:12]
        self.host = host
        self._channel, self._hooks = channel, hooks
        self._destruction: asyncio.Task[None] | None = None
        self._oom_kills = 0

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
        """See Sandbox.exec. A program that cannot be started gives 126 or 127, as in a shell.

        `max_output` holds for standard output and standard error each. Cancelling kills the command.
        """
        fields: JsonObject = {"op": "exec", "timeout": timeout_seconds, "max_output": max_output}
        fields = {**fields, **command_fields(argv, cwd, env)}
        number, future = self._channel.post(fields, stdin, max_body=2 * max_output)
        try:
            reply = await self._channel.reply(future, timeout_seconds + answer_seconds(len(stdin) + 2 * max_output))
        except asyncio.CancelledError:
            cancel(self._channel, number)
            raise
        result = exec_result(self._channel, checked(self._channel, ExecAnswer, reply), reply)
        return result.model_copy(update={"out_of_memory": True}) if self._ran_out(result) else result

    async def spawn(self, argv: Sequence[str], *, cwd: str = "/workspace", env: Mapping[str, str] | None = None) -> Process:
        """See Sandbox.spawn."""
        number, future = self._channel.post({"op": "spawn", **command_fields(argv, cwd, env)})
        checked(self._channel, Answer, await self._channel.reply(future, ANSWER_SECONDS))
        return AgentProcess(self._channel, number)

    async def session(self, name: str = "main", *, kind: SessionKind = SessionKind.BASH) -> AgentSession:
        """See Sandbox.session."""
        return AgentSession(self._channel, name, kind)

    async def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """See Sandbox.read. No link is followed, in no part of the path."""
        reply = await self._ask({"op": "read", "path": path, "max_bytes": max_bytes}, max_body=max_bytes)
        checked(self._channel, Answer, reply, path)
        return reply.body

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """See Sandbox.write. A reader sees the old file or the new one, whole; a link is replaced, not followed."""
        reply = await self._ask({"op": "write", "files": [[path, len(data), mode]]}, data)
        checked(self._channel, Answer, reply, path)

    async def upload(self, files: Mapping[str, bytes | Path]) -> None:
        """See Sandbox.upload. Files before the one that fails are written."""
        for batch in transfers.batches(files):
            entries: JsonValue = [[path, len(data), mode] for path, data, mode in batch]
            reply = await self._ask({"op": "write", "files": entries}, b"".join(data for _, data, _ in batch))
            checked(self._channel, Answer, reply, batch[0].path if len(batch) == 1 else "upload")

    async def download(
        self, path: str, destination: Path, *, max_bytes: int = 1 << 26, max_files: int = 1000
    ) -> tuple[str, ...]:
        """See Sandbox.download."""
        transfers.must_be_empty(destination)
        names = await self._list(path, max_files + 1)
        if len(names) > max_files:
            raise transfers.too_much(path, f"more than {max_files} files")
        left = max_bytes
        for name in names:
            data = await self.read(os.path.join(path, name), max_bytes=left)  # noqa: PTH118 a path of the sandbox
            left -= len(data)
            try:
                await asyncio.to_thread(transfers.write_below, destination, name, data)
            except FileExistsError as error:
                raise self._channel.violated(f"one name twice in a list of files: {name[:200]}") from error
        return names

    async def files(self, *, max_files: int = 1000) -> tuple[str, ...]:
        """See Sandbox.files: the first `max_files`; names that are not UTF-8 are left out."""
        return await self._list("/workspace", max_files)

    async def snapshot(self) -> str:
        """See Sandbox.snapshot. The agent keeps it in memory, which counts as the sandbox's."""
        return str((await self._snapshot()).snapshot)

    async def reset(self, snapshot: str = "") -> None:
        """See Sandbox.reset. Raises SandboxError for a snapshot that this sandbox did not make."""
        number = int(snapshot) if snapshot.isdecimal() else -1 if snapshot else 0
        reply = await self._channel.request({"op": "reset", "snapshot": number}, seconds=COPY_SECONDS)
        checked(self._channel, Answer, reply)

    async def fork(self) -> "AgentSandbox":
        """See Sandbox.fork."""
        if self._hooks.another is None:
            raise CapabilityError("this backend does not fork sandboxes; make one and upload the files")
        kept = await self._snapshot()
        try:
            twin = await self._hooks.another()
            try:
                await transfers.hand_over(self._snapshot_part, twin._restore_part, kept)
            except BaseException:
                await twin.destroy()
                raise
        finally:
            with contextlib.suppress(SandboxError):  # one that was lost meanwhile keeps nothing
                checked(self._channel, Answer, await self._ask({"op": "forget", "snapshot": kept.snapshot}))
        return twin

    async def set_network(self, network: Network) -> None:
        """See Sandbox.set_network."""
        if self._hooks.set_network is not None:
            await self._hooks.set_network(network)
        elif network is not Network.NONE:
            raise CapabilityError("this backend gives no sandbox a network; docker and modal do")

    async def stats(self) -> Usage:
        """See Sandbox.stats."""
        found = checked(self._channel, UsageAnswer, await self._ask({"op": "stats"}))
        return Usage(**found.model_dump(exclude={"id"}))

    async def alive(self) -> bool:
        """See Sandbox.alive."""
        try:
            checked(self._channel, Answer, await self._channel.request({"op": "ping"}, seconds=PING_SECONDS))
        except SandboxError:
            return False
        return True

    @property
    def broke_protocol(self) -> bool:
        """Whether it once sent what no honest agent sends."""
        return self._channel.broke_protocol

    async def destroy(self) -> None:
        """See Sandbox.destroy. Runs to its end even if the caller is cancelled."""
        if self._destruction is None:
            self._destruction = asyncio.get_running_loop().create_task(self._destroy())
        await asyncio.shield(self._destruction)

    def _ran_out(self, result: ExecResult) -> bool:
        """Whether the kernel killed something for its memory since this was last asked; a shell tells that as 137."""
        if self._hooks.oom_kills is None or (result.exit_code is not None and result.exit_code < 128):
            return False
        before, self._oom_kills = self._oom_kills, self._hooks.oom_kills()
        return self._oom_kills > before

    async def _list(self, path: str, max_files: int) -> tuple[str, ...]:
        reply = await self._ask({"op": "files", "path": path, "max_files": max_files}, max_body=MAX_NAMES_BYTES)
        checked(self._channel, Answer, reply, path)
        names = transfers.names_in(reply.body, max_files)
        if names is None:
            raise self._channel.violated("a list of files that leaves its directory, or is too long")
        return names

    async def _snapshot(self) -> SnapshotAnswer:
        reply = await self._channel.request({"op": "snapshot"}, seconds=COPY_SECONDS)
        return checked(self._channel, SnapshotAnswer, reply, "snapshot")

    async def _snapshot_part(self, snapshot: int, offset: int, size: int) -> bytes:
        fields: JsonObject = {"op": "snapshot_part", "snapshot": snapshot, "offset": offset, "size": size}
        reply = await self._ask(fields, max_body=size)
        checked(self._channel, Answer, reply)
        if len(reply.body) != size:
            raise self._channel.violated(f"{len(reply.body)} bytes of a snapshot where {size} were asked for")
        return reply.body

    async def _restore_part(self, data: bytes, *, last: bool) -> None:
        checked(self._channel, Answer, await self._ask({"op": "restore_part", "last": last}, data))

    async def _ask(self, fields: JsonObject, body: bytes = b"", *, max_body: int = 0) -> Reply:
        return await self._channel.request(fields, body, seconds=answer_seconds(len(body) + max_body), max_body=max_body)

    async def _destroy(self) -> None:
        await self._channel.close()
        messages = await self.host.end(END_SECONDS)
        if messages:
            log.warning("sandbox_complained", sandbox=self.id, messages=messages)
        await self._hooks.free(self)
