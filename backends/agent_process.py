"""What a sandbox starts and speaks to: a program over its streams, and a session that keeps its state."""

import asyncio
from collections.abc import Mapping, Sequence

from backends.agent_replies import Answer, ExecAnswer, OutputAnswer, RunAnswer, checked
from backends.base import ExecRefused, ExecResult, RunResult, SandboxError, SessionKind
from backends.channel import Channel, Reply
from core.types import JsonObject

ANSWER_SECONDS = 20.0  # what an agent may take beyond the time of the command itself, and of moving bytes
SLOWEST_BYTES_PER_SECOND = 1 << 20
RECEIVE_BYTES = 1 << 16


def answer_seconds(size: int) -> float:
    """How long an answer may take where so many bytes go either way."""
    return ANSWER_SECONDS + size / SLOWEST_BYTES_PER_SECOND


def command_fields(argv: Sequence[str], cwd: str, env: Mapping[str, str] | None) -> JsonObject:
    """The part of a request that says what to run. Raises ExecRefused for what no program can be given."""
    if not argv:
        raise ExecRefused("an empty command; expected a program and its arguments")
    if any("\0" in word for word in (*argv, cwd, *(env or {}), *(env or {}).values())):
        raise ExecRefused("a NUL byte in a command; no program can be given one")
    return {"argv": list(argv), "cwd": cwd, "env": dict(env or {})}


def exec_result(channel: Channel, found: ExecAnswer, reply: Reply) -> ExecResult:
    """What the caller gets, the two streams cut apart. Raises ProtocolViolation."""
    stdout, stderr = _streams(channel, found, reply)
    return ExecResult(stdout=stdout, stderr=stderr, **found.model_dump(exclude={"id", "stdout_bytes"}))


class AgentProcess:
    """The Process contract: a program that `AgentSandbox.spawn` started."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel, self._number = channel, number
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
        checked(self._channel, Answer, reply)

    async def receive(self) -> bytes:
        """See Process.receive; at most 64 KiB. May be cancelled and called again without losing a byte."""
        if self._receiving is None:
            _, self._receiving = self._channel.post(self._fields("receive"), max_body=RECEIVE_BYTES)
        reply = await asyncio.shield(self._receiving)
        self._receiving = None
        self._errors = checked(self._channel, OutputAnswer, reply).stderr
        return reply.body

    async def kill(self) -> None:
        """See Process.kill. Safe to call twice and after the sandbox has ended."""
        try:
            reply = await self._channel.request(self._fields("kill"), seconds=ANSWER_SECONDS)
        except SandboxError:
            return
        self._errors = checked(self._channel, OutputAnswer, reply).stderr or self._errors

    def stderr_tail(self) -> str:
        """See Process.stderr_tail; as of the last `receive` or `kill`."""
        return self._errors

    def _fields(self, operation: str) -> JsonObject:
        return {"op": operation, "program": self._number}


class AgentSession:
    """The Session contract, by name; the agent holds the interpreter."""

    def __init__(self, channel: Channel, name: str, kind: SessionKind) -> None:
        self._channel = channel
        self._session: JsonObject = {"session": f"{kind}:{name}", "kind": kind.value}

    async def run(self, code: str, *, timeout_seconds: float, max_output: int = 1 << 20) -> RunResult:
        """See Session.run. Cancelling kills the interpreter."""
        if "\0" in code:
            raise ExecRefused("a NUL byte in code; no interpreter takes one")
        try:
            body = code.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ExecRefused(f"half a character in code, at {error.start}; no interpreter takes one") from error
        fields: JsonObject = {"op": "run", **self._session, "timeout": timeout_seconds, "max_output": max_output}
        number, future = self._channel.post(fields, body, max_body=2 * max_output)
        try:
            reply = await self._channel.reply(future, timeout_seconds + answer_seconds(len(body) + 2 * max_output))
        except asyncio.CancelledError:
            cancel(self._channel, number)
            raise
        found = checked(self._channel, RunAnswer, reply)
        stdout, stderr = _streams(self._channel, found, reply)
        return RunResult(stdout=stdout, stderr=stderr, **found.model_dump(exclude={"id", "stdout_bytes"}))

    async def restart(self) -> None:
        """See Session.restart."""
        reply = await self._channel.request({"op": "restart", **self._session}, seconds=ANSWER_SECONDS)
        checked(self._channel, Answer, reply)


def cancel(channel: Channel, number: int) -> None:
    """Have the command of that request killed. Where the sandbox died, the command died with it."""
    try:
        channel.post({"op": "cancel", "target": number})
    except SandboxError:
        return


def _streams(channel: Channel, found: ExecAnswer, reply: Reply) -> tuple[bytes, bytes]:
    if found.stdout_bytes > len(reply.body):
        raise channel.violated("more standard output than the reply holds")
    return reply.body[: found.stdout_bytes], reply.body[found.stdout_bytes :]
