"""A real server on loopback that breaks as it is told: it hangs, hangs up, sends half an answer, or something else."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from core.types import JsonObject

HANGS = b"hangs"
HANGS_UP = b""


def answered(body: bytes, status: str = "200 OK", headers: str = "", length: int | None = None) -> bytes:
    """An HTTP answer; `length` where it promises another length than it has."""
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body) if length is None else length}\r\n"
    )
    return f"{head}{headers}connection: close\r\n\r\n".encode() + body


@dataclass
class BrokenServer:
    """What it does for each request, one after another; when they are used up, `then` and again `then`."""

    first: list[bytes]
    then: list[bytes]
    url: str = ""
    asked: int = 0
    _next: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            length = next(lengths, 0)
            await reader.readexactly(length)
            self.asked += 1
            reply = self._reply()
            if reply is HANGS:
                await reader.read()  # until the client gives up
            writer.write(b"" if reply is HANGS else reply)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone, as it may
        finally:
            writer.close()

    def _reply(self) -> bytes:
        if self.first:
            return self.first.pop(0)
        if not self._next:
            self._next = list(self.then)
        return self._next.pop(0)


@asynccontextmanager
async def broken_server(first: Sequence[bytes], then: Sequence[bytes | JsonObject] = ()) -> AsyncIterator[BrokenServer]:
    """Break in these ways, one a request, and then say these things for ever: bytes as they are, or an object as JSON."""
    said = [one if isinstance(one, bytes) else answered(json.dumps(one).encode()) for one in then]
    state = BrokenServer(list(first), said)
    server = await asyncio.start_server(state.serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield state
