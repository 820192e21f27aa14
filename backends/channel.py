"""The host's end of the socket to an in-sandbox agent: numbered requests out, checked replies in.

The frames are described in backends/agent/frames.py. Everything that arrives is untrusted: a frame that is too long, that
answers nothing, or that is no JSON object ends the channel with ProtocolViolation for every caller.
"""

import asyncio
import json
import socket
from itertools import count
from typing import NamedTuple

from pydantic import JsonValue

from backends.agent.frames import LENGTHS, pack
from backends.base import ProtocolViolation, SandboxError, SandboxLost
from core.types import JsonObject

MAX_REPLY_HEADER = 1 << 16
BUFFER = 1 << 20


class Reply(NamedTuple):
    """One answer of the agent, its framing checked and nothing else."""

    header: JsonObject
    body: bytes


class _Pending(NamedTuple):
    future: asyncio.Future[Reply]
    max_body: int


class Channel:
    """Many requests at once over one socket. Made with `Channel.open`, ended with `close`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = count(1)
        self._pending: dict[int, _Pending] = {}
        self._end: type[SandboxError] | None = None
        self._reason = ""
        self._task = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def open(cls, end: socket.socket) -> "Channel":
        """A channel over the host's end of a socketpair, which it owns from now on."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end, limit=BUFFER))

    def post(self, fields: JsonObject, body: bytes = b"", *, max_body: int = 0) -> tuple[int, asyncio.Future[Reply]]:
        """Send a request now. Returns its number and the future of its reply.

        The future fails with SandboxLost or ProtocolViolation; it may be given up at any time.
        """
        if self._end is not None:
            raise self._failure(sent=False)
        number = next(self._numbers)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[number] = _Pending(future, max_body)
        self._writer.write(pack({"id": number, **fields}, len(body)))
        if body:
            self._writer.write(body)
        return number, future

    async def request(self, fields: JsonObject, body: bytes = b"", *, seconds: float, max_body: int = 0) -> Reply:
        """The reply to one request. Raises SandboxLost after `seconds` without one, and then ends the channel."""
        _, future = self.post(fields, body, max_body=max_body)
        return await self.reply(future, seconds)

    async def reply(self, future: asyncio.Future[Reply], seconds: float) -> Reply:
        """The reply to a posted request, with the limit of `request`."""
        done, _ = await asyncio.wait([future], timeout=seconds)
        if not done:
            self._fail(SandboxLost, f"no answer within {seconds:g} s")
        return await future

    def violated(self, found: str) -> ProtocolViolation:
        """End the channel because of what a reply held; returns the error to raise."""
        self._fail(ProtocolViolation, found)
        return ProtocolViolation(found)

    async def close(self) -> None:
        """End the channel; the agent takes this as the end of the sandbox. Safe to call twice."""
        self._fail(SandboxLost, "the sandbox was destroyed")
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                await self._take_frame()
        except SandboxError as error:
            self._fail(type(error), str(error))
        except (asyncio.IncompleteReadError, OSError):
            self._fail(SandboxLost, "the sandbox has ended")

    async def _take_frame(self) -> None:
        header_bytes, body_bytes = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
        if header_bytes > MAX_REPLY_HEADER:
            raise ProtocolViolation(f"a reply header of {header_bytes} bytes, at most {MAX_REPLY_HEADER} are expected")
        header = _parsed(await self._reader.readexactly(header_bytes))
        pending = self._pending.get(_number(header.get("id")))
        if pending is None:
            raise ProtocolViolation(f"a reply to request {str(header.get('id'))[:40]}, which is not open")
        if body_bytes > pending.max_body:
            raise ProtocolViolation(f"a reply body of {body_bytes} bytes, at most {pending.max_body} are expected")
        body = await self._reader.readexactly(body_bytes)
        del self._pending[_number(header["id"])]
        if not pending.future.done():
            pending.future.set_result(Reply(header, body))

    def _fail(self, kind: type[SandboxError], reason: str) -> None:
        if self._end is None:
            self._end, self._reason = kind, reason
            self._writer.transport.abort()
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(self._failure(sent=True))
                pending.future.exception()  # whoever gave it up does not have to fetch it
        self._pending.clear()

    def _failure(self, *, sent: bool) -> SandboxError:
        if self._end is ProtocolViolation:
            return ProtocolViolation(self._reason)
        return SandboxLost(self._reason, maybe_executed=sent)


def _parsed(text: bytes) -> JsonObject:
    try:
        header: JsonValue = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(f"a reply header that is no JSON: {text[:80]!r}") from error
    if not isinstance(header, dict):
        raise ProtocolViolation(f"a reply header that is no JSON object: {text[:80]!r}")
    return header


def _number(found: JsonValue) -> int:
    return found if type(found) is int else -1
