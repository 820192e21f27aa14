"""A sandbox with an agent in it (backends/agent), whatever walls a backend built around that agent."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar
from uuid import uuid4

from pydantic import Field, ValidationError

from backends.base import ExecResult, Process, SandboxError, SandboxPathError
from backends.channel import Channel, Reply
from backends.host_process import HostProcess
from core.logs import get_logger
from core.types import JsonObject, Value

log = get_logger("sandbox")

ANSWER_SECONDS = 20.0  # what an agent may take beyond the time of the command itself
PING_SECONDS = 5.0
END_SECONDS = 8.0  # an agent gives up on a process that will not die after 5 s
FILES_BYTES = 1 << 24
RECEIVE_BYTES = 1 << 16


class _Answer(Value):
    id: int


class _Exec(_Answer):
    exit_code: int | None = Field(ge=0, le=255)
    timed_out: bool
    truncated: bool
    seconds: float = Field(ge=0)
    stdout_bytes: int = Field(ge=0)


class _Output(_Answer):
    stderr: str = Field(max_length=1 << 14)


class _Refusal(_Answer):
    error: str = Field(max_length=32)
    message: str = Field(max_length=4096)


A = TypeVar("A", bound=_Answer)


class AgentSandbox:
    """The Sandbox contract over a channel to an agent. Backends make it with `start_sandbox`."""

    def __init__(self, channel: Channel, host: HostProcess, free: Callable[["AgentSandbox"], Awaitable[None]]) -> None:
        self.id = uuid4().hex[:12]
        self.host_pid = host.pid
        self._channel, self._host, self._free = channel, host, free
        self._destruction: asyncio.Task[None] | None = None

    async def exec(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float,
        stdin: bytes = b"",
        cwd: str = "/workspace",
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """See Sandbox.exec. A program that cannot be started gives 126 or 127, as in a shell.

        `max_output` holds for standard output and standard error each. Cancelling kills the command.
        """
        fields: JsonObject = {"op": "exec", "timeout": timeout_seconds, "max_output": max_output}
        number, future = self._channel.post({**fields, **_command(argv, cwd)}, stdin, max_body=2 * max_output)
        try:
            reply = await self._channel.reply(future, timeout_seconds + ANSWER_SECONDS)
        except asyncio.CancelledError:
            self._cancel(number)
            raise
        found = self.checked(_Exec, reply)
        if found.stdout_bytes > len(reply.body):
            raise self._channel.violated("more standard output than the reply holds")
        stdout, stderr = reply.body[: found.stdout_bytes], reply.body[found.stdout_bytes :]
        return ExecResult(stdout=stdout, stderr=stderr, **found.model_dump(exclude={"id", "stdout_bytes"}))

    async def spawn(self, argv: Sequence[str], *, cwd: str = "/workspace") -> Process:
        """See Sandbox.spawn."""
        number, future = self._channel.post({"op": "spawn", **_command(argv, cwd)})
        self.checked(_Answer, await self._channel.reply(future, ANSWER_SECONDS))
        return AgentProcess(self, self._channel, number)

    async def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        """See Sandbox.read. No link is followed, in no part of the path."""
        reply = await self._ask({"op": "read", "path": path, "max_bytes": max_bytes}, max_body=max_bytes)
        self.checked(_Answer, reply, path)
        return reply.body

    async def write(self, path: str, data: bytes) -> None:
        """See Sandbox.write. A reader sees the old file or the new one, whole; a link is replaced, not followed."""
        self.checked(_Answer, await self._ask({"op": "write", "path": path}, data), path)

    async def files(self, *, max_files: int = 1000) -> tuple[str, ...]:
        """See Sandbox.files: the first `max_files`; names that are not UTF-8 are left out."""
        reply = await self._ask({"op": "files", "max_files": max_files}, max_body=FILES_BYTES)
        self.checked(_Answer, reply, "/workspace")
        try:
            paths = reply.body.decode().split("\0") if reply.body else []
        except UnicodeDecodeError as error:
            raise self._channel.violated("a list of files that is not UTF-8") from error
        if len(paths) > max_files or any(path.startswith("/") or ".." in path.split("/") for path in paths):
            raise self._channel.violated("a list of files that leaves the workspace")
        return tuple(sorted(paths))

    async def alive(self) -> bool:
        """See Sandbox.alive."""
        try:
            self.checked(_Answer, await self._channel.request({"op": "ping"}, seconds=PING_SECONDS))
        except SandboxError:
            return False
        return True

    async def destroy(self) -> None:
        """See Sandbox.destroy. Runs to its end even if the caller is cancelled."""
        if self._destruction is None:
            self._destruction = asyncio.get_running_loop().create_task(self._destroy())
        await asyncio.shield(self._destruction)

    def checked(self, kind: type[A], reply: Reply, path: str = "") -> A:
        """The header of a reply as that type. Raises what the agent's refusal stands for, or ProtocolViolation."""
        try:
            if "error" in reply.header:
                raise _refusal(_Refusal.model_validate(reply.header, strict=True), path)
            return kind.model_validate(reply.header, strict=True)
        except ValidationError as error:
            raise self._channel.violated(
                f"a reply that is no {kind.__name__[1:].lower()}: {str(reply.header)[:200]}"
            ) from error

    async def _ask(self, fields: JsonObject, body: bytes = b"", *, max_body: int = 0) -> Reply:
        return await self._channel.request(fields, body, seconds=ANSWER_SECONDS, max_body=max_body)

    def _cancel(self, number: int) -> None:
        with suppress(SandboxError):  # where it died, the command died with it
            self._channel.post({"op": "cancel", "target": number})

    async def _destroy(self) -> None:
        await self._channel.close()
        messages = await self._host.end(END_SECONDS)
        if messages:
            log.warning("sandbox_complained", sandbox=self.id, messages=messages)
        await self._free(self)


class AgentProcess:
    """The Process contract: a program that `AgentSandbox.spawn` started."""

    def __init__(self, sandbox: AgentSandbox, channel: Channel, number: int) -> None:
        self._sandbox, self._channel, self._number = sandbox, channel, number
        self._errors = ""
        self._receiving: asyncio.Future[Reply] | None = None
        self._sending: asyncio.Future[Reply] | None = None
        self._turn = asyncio.Lock()

    async def send(self, data: bytes) -> None:
        """See Process.send; returns when the program's pipe has taken it all. Raises SandboxError if it has ended.

        Callers take turns, so what each of them sends arrives in one piece, also where one is cancelled.
        """
        async with self._turn:
            if self._sending is not None and not self._sending.done():
                await asyncio.wait([self._sending])
            _, self._sending = self._channel.post(self._fields("send"), data)
            reply = await asyncio.shield(self._sending)
        self._sandbox.checked(_Answer, reply)

    async def receive(self) -> bytes:
        """See Process.receive; at most 64 KiB. May be cancelled and called again without losing a byte."""
        if self._receiving is None:
            _, self._receiving = self._channel.post(self._fields("receive"), max_body=RECEIVE_BYTES)
        reply = await asyncio.shield(self._receiving)
        self._receiving = None
        self._errors = self._sandbox.checked(_Output, reply).stderr
        return reply.body

    async def kill(self) -> None:
        """See Process.kill. Safe to call twice and after the sandbox has ended."""
        try:
            reply = await self._channel.request(self._fields("kill"), seconds=ANSWER_SECONDS)
        except SandboxError:
            return
        self._errors = self._sandbox.checked(_Output, reply).stderr or self._errors

    def stderr_tail(self) -> str:
        """See Process.stderr_tail; as of the last `receive` or `kill`."""
        return self._errors

    def _fields(self, operation: str) -> JsonObject:
        return {"op": operation, "program": self._number}


def _command(argv: Sequence[str], cwd: str) -> JsonObject:
    if not argv:
        raise SandboxError("an empty command; expected a program and its arguments")
    if any("\0" in word for word in (*argv, cwd)):
        raise SandboxError("a NUL byte in a command; no program can be given one")
    return {"argv": list(argv), "cwd": cwd}


def _refusal(refusal: _Refusal, path: str) -> SandboxError:
    if refusal.error == "path":
        return SandboxPathError(f"{path}: {refusal.message}")
    return SandboxError(f"the sandbox refused: {refusal.message}")
