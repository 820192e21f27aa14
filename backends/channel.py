"""The host's end of the byte stream to an in-sandbox agent: numbered requests out, checked replies in.

The frames are described in backends/agent/frames.py. Everything that arrives is untrusted: a frame that is too long, that
answers nothing, or that is no JSON object ends the channel with ProtocolViolation for every caller.
"""

import asyncio
import json
import socket
from itertools import count
from typing import NamedTuple, Protocol, cast

from pydantic import JsonValue

from backends.agent.frames import LENGTHS, MAX_REQUEST_BODY, MAX_REQUEST_HEADER, pack
from backends.base import Cause, ExecRefused, ProtocolViolation, SandboxError, SandboxLost
from core.types import JsonObject

MAX_REPLY_HEADER = 1 << 16
RECEIVE_BYTES = 1 << 18


class Wire(Protocol):
    """What a channel writes to; asyncio's transports are some. Neither method waits or raises."""

    def write(self, data: bytes) -> None:
        """Send, now or later, in order."""
        ...

    def abort(self) -> None:
        """Let go at once; safe to call twice."""
        ...


class ByteStream(Protocol):
    """A transport that is awaited: a container's attached stream, a remote program's. For `Channel.over`."""

    async def receive(self) -> bytes:
        """The next bytes, b"" at the end. Raises OSError or SandboxError where the link broke."""
        ...

    async def send(self, data: bytes) -> None:
        """Write all of it. Raises OSError or SandboxError where the link broke."""
        ...

    async def aclose(self) -> None:
        """Let go; safe to call twice."""
        ...


class Reply(NamedTuple):
    """One answer of the agent, its framing checked and nothing else."""

    header: JsonObject
    body: bytes


class _Pending(NamedTuple):
    future: asyncio.Future[Reply]
    max_body: int


class Channel:
    """Many requests at once over one byte stream. Made with `open` or `over`, ended with `close`.

    Holds no more of what arrives than one frame of an allowed length and what came with it in one piece.
    """

    def __init__(self) -> None:
        self._wire: Wire | None = None
        self._numbers = count(1)
        self._pending: dict[int, _Pending] = {}
        self._received = bytearray()
        self._end: type[SandboxError] | None = None
        self._reason, self._cause = "", Cause.UNKNOWN
        self._pump: _Pump | None = None

    @classmethod
    async def open(cls, end: socket.socket) -> "Channel":
        """A channel over the host's end of a socketpair, which it owns from now on."""
        end.setblocking(False)
        channel = cls()
        await asyncio.get_running_loop().create_connection(lambda: _SocketProtocol(channel), sock=end)
        return channel

    @classmethod
    def over(cls, stream: ByteStream) -> "Channel":
        """A channel over any byte stream, which it owns from now on; two tasks move the bytes until `close`."""
        channel = cls()
        channel._pump = _Pump(stream, channel)
        channel.use(channel._pump)
        return channel

    def use(self, wire: Wire) -> None:
        """Write to this from now on. Called once, by what makes the channel."""
        self._wire = wire

    def feed(self, data: bytes | memoryview) -> None:
        """Take what arrived, however it is cut."""
        self._received += data
        try:
            while self._take_frame():
                pass
        except SandboxError as error:
            self.lose(str(error), kind=type(error))

    def lose(self, reason: str, *, kind: type[SandboxError] = SandboxLost, cause: Cause = Cause.UNKNOWN) -> None:
        """End the channel, for that reason; the first one counts. Who waits for a reply is told."""
        if self._end is None:
            self._end, self._reason, self._cause = kind, reason, cause
            self._received.clear()
            if self._wire is not None:
                self._wire.abort()
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(self._failure(sent=True))
                pending.future.exception()  # whoever gave it up does not have to fetch it
        self._pending.clear()

    def post(self, fields: JsonObject, body: bytes = b"", *, max_body: int = 0) -> tuple[int, asyncio.Future[Reply]]:
        """Send a request now, once. Returns its number and the future of its reply.

        The future fails with SandboxLost or ProtocolViolation; it may be given up at any time. Raises ExecRefused for more
        than an agent takes, which would take it for the end of the link.
        """
        if self._end is not None or self._wire is None:
            raise self._failure(sent=False)
        number = next(self._numbers)
        head = pack({"id": number, **fields}, len(body))
        if len(head) > MAX_REQUEST_HEADER or len(body) > MAX_REQUEST_BODY:
            found = f"{len(head)} bytes of words and {len(body)} of data in one request"
            raise ExecRefused(f"{found}; at most {MAX_REQUEST_HEADER} and {MAX_REQUEST_BODY} are taken")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[number] = _Pending(future, max_body)
        self._wire.write(head)
        if body:
            self._wire.write(body)
        return number, future

    async def request(self, fields: JsonObject, body: bytes = b"", *, seconds: float, max_body: int = 0) -> Reply:
        """The reply to one request. Raises SandboxLost after `seconds` without one, and then ends the channel."""
        _, future = self.post(fields, body, max_body=max_body)
        return await self.reply(future, seconds)

    async def reply(self, future: asyncio.Future[Reply], seconds: float) -> Reply:
        """The reply to a posted request, with the limit of `request`."""
        overdue = asyncio.get_running_loop().call_later(seconds, self._overdue, seconds)
        try:
            return await future
        finally:
            overdue.cancel()

    def violated(self, found: str) -> ProtocolViolation:
        """End the channel because of what a reply held; returns the error to raise."""
        self.lose(found, kind=ProtocolViolation)
        return ProtocolViolation(found)

    @property
    def broke_protocol(self) -> bool:
        """Whether it ended because of what arrived."""
        return self._end is ProtocolViolation

    async def close(self) -> None:
        """End the channel; the agent takes this as the end of the sandbox. Safe to call twice."""
        self.lose("the sandbox was destroyed", cause=Cause.DESTROYED)
        if self._pump is not None:
            await self._pump.ended()

    def _take_frame(self) -> bool:
        """Whether a whole frame was there; it is handed to who waits for it."""
        received = self._received
        if len(received) < LENGTHS.size or self._end is not None:
            return False
        header_bytes, body_bytes = LENGTHS.unpack_from(received)
        if header_bytes > MAX_REPLY_HEADER:
            raise ProtocolViolation(f"a reply header of {header_bytes} bytes, at most {MAX_REPLY_HEADER} are expected")
        largest = max((pending.max_body for pending in self._pending.values()), default=0)
        if body_bytes > largest:
            raise ProtocolViolation(f"a reply body of {body_bytes} bytes, at most {largest} are expected")
        body_start = LENGTHS.size + header_bytes
        if len(received) < body_start + body_bytes:
            return False
        header = _parsed(bytes(received[LENGTHS.size : body_start]))
        number = _number(header.get("id"))
        pending = self._pending.get(number)
        if pending is None:
            raise ProtocolViolation(f"a reply to request {str(header.get('id'))[:40]}, which is not open")
        if body_bytes > pending.max_body:
            raise ProtocolViolation(f"a reply body of {body_bytes} bytes, at most {pending.max_body} are expected")
        body = bytes(received[body_start : body_start + body_bytes])
        del received[: body_start + body_bytes]
        del self._pending[number]
        if not pending.future.done():
            pending.future.set_result(Reply(header, body))
        return True

    def _overdue(self, seconds: float) -> None:
        self.lose(f"no answer within {seconds:g} s", cause=Cause.LINK)

    def _failure(self, *, sent: bool) -> SandboxError:
        if self._end is ProtocolViolation:
            return ProtocolViolation(self._reason)
        return SandboxLost(self._reason, maybe_executed=sent, cause=self._cause)


class _SocketProtocol(asyncio.BufferedProtocol):
    """What arrives on a socket goes to the channel as it comes, without a task in between.

    Always the same memory receives it, because to get and to free as much for every reply takes longer than the reply.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._channel.use(cast("asyncio.Transport", transport))  # uvloop's are no subclasses of it

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._channel.feed(self._buffer[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel.lose("the sandbox has ended")


class _Pump:
    """A ByteStream as a Wire."""

    def __init__(self, stream: ByteStream, channel: Channel) -> None:
        self._stream, self._channel = stream, channel
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._receive()), loop.create_task(self._send())]
        self._closing: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        self._outgoing.put_nowait(data)

    def abort(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def ended(self) -> None:
        """Wait until the stream was let go of."""
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def _receive(self) -> None:
        try:
            while data := await self._stream.receive():
                self._channel.feed(data)
            self._channel.lose("the sandbox has ended")
        except (OSError, SandboxError) as error:
            self._channel.lose(f"the link to the sandbox broke: {error}", cause=getattr(error, "cause", Cause.LINK))

    async def _send(self) -> None:
        try:
            while True:
                await self._stream.send(await self._outgoing.get())
        except (OSError, SandboxError) as error:
            self._channel.lose(f"the link to the sandbox broke: {error}", cause=getattr(error, "cause", Cause.LINK))

    async def _close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stream.aclose()


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
