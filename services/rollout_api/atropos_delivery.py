"""A batch on its way to an Atropos trainer: JSON put together from stored bytes, acknowledged when it is through.

These trainers acknowledge nothing. A batch counts as taken when its last byte has left for the trainer's connection;
one whose connection breaks before that goes back to its place in the queue.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Protocol

from isal import isal_zlib
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from zstandard import ZstdCompressor

from core.logs import get_logger
from services.rollout_api.base import Lease
from services.rollout_api.bodies import JSON
from services.rollout_api.compression import body_of
from services.rollout_api.queue import GroupQueue
from services.rollout_api.refusals import Refusal

DELIVERY_SECONDS = 120.0
GZIP_LEVEL = ZSTD_LEVEL = 1
START, BETWEEN, END = b'{"batch":[', b",", b"]}"

log = get_logger("rollout_api")


def encoding_for(accepted: str) -> str:
    """zstd where that is accepted; else gzip, which every Atropos client asks for."""
    names = {
        part.partition(";")[0].strip() for part in accepted.lower().split(",") if not part.replace(" ", "").endswith("q=0")
    }
    return next((name for name in ("zstd", "gzip") if name in names), "identity")


class BatchDelivery(Response):
    """The answer to GET /batch."""

    def __init__(self, queue: GroupQueue, lease: Lease, encoding: str, broke_off: Callable[[], None]) -> None:
        """`broke_off` is called where the trainer does not get the batch."""
        self._queue, self._lease, self._encoding, self._broke_off = queue, lease, encoding, broke_off
        headers = {"Content-Type": JSON, "Vary": "Accept-Encoding"}
        super().__init__(headers=headers)
        if encoding == "identity":
            edges = len(START) + len(BETWEEN) * (len(lease.heads) - 1) + len(END)
            self.headers["Content-Length"] = str(edges + sum(head.bytes for head in lease.heads))
        else:
            self.headers["Content-Encoding"] = encoding
            del self.headers["Content-Length"]  # of the empty content that Response has seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, then acknowledge it or give it back."""
        gone = asyncio.create_task(_disconnected(receive))
        through = False
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                through = await self._send(send, gone)
        except TimeoutError:
            log.warning("slow_trainer", batch=self._lease.batch_id, seconds=DELIVERY_SECONDS)
            raise
        finally:
            gone.cancel()
            await asyncio.shield(self._end(through))

    async def _send(self, send: Send, gone: "asyncio.Task[None]") -> bool:
        """Whether all of it went out while somebody was there."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for part in self._parts():
            if gone.done():
                return False
            await send({"type": "http.response.body", "body": part, "more_body": True})
        # this one waits until the parts before it have left the process
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        if gone.done():
            return False
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    async def _end(self, through: bool) -> None:
        batch_id = self._lease.batch_id
        try:
            if through:
                await self._queue.acknowledge(batch_id, None)
            else:
                self._broke_off()
                groups = await self._queue.return_batch(batch_id)
                log.warning("delivery_broke_off", batch=batch_id, groups=groups)
        except Refusal as error:  # the run was reset or opened again meanwhile, or the lease ends by itself
            log.warning("delivery_not_noted", batch=batch_id, through=through, error=str(error))

    async def _parts(self) -> AsyncIterator[bytes]:
        packer = self._packer()

        def packed(between: bytes, frame: bytes) -> bytes:
            return packer.compress(between + body_of(frame))

        between = START
        async for frame in self._queue.frames(self._lease.heads):
            yield await asyncio.to_thread(packed, between, frame)
            between = BETWEEN
        yield packer.compress(END) + packer.flush()

    def _packer(self) -> "Packer":
        if self._encoding == "gzip":
            return isal_zlib.compressobj(GZIP_LEVEL, wbits=31)
        if self._encoding == "zstd":
            # one frame: where one of several ends at the end of a packet, httpx and urllib3 take it for the last one
            return ZstdCompressor(level=ZSTD_LEVEL).compressobj()
        return Plain()


class Packer(Protocol):
    """Bytes in, bytes of a content-encoding out."""

    def compress(self, data: bytes, /) -> bytes:
        """As much of the encoded data as there is by now."""
        ...

    def flush(self) -> bytes:
        """The rest."""
        ...


class Plain:
    """The encoding identity."""

    def compress(self, data: bytes, /) -> bytes:
        """See Packer."""
        return data

    def flush(self) -> bytes:
        """See Packer."""
        return b""


async def _disconnected(receive: Receive) -> None:
    with suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
