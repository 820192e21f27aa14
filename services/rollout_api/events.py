"""What happened to the queue, as a stream that a client follows (server-sent events)."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from uuid import uuid4

from services.rollout_api.base import Event

KEPT = 1024  # events that a client may be behind before it is told that it missed some
QUIET_SECONDS = 15.0  # after which a comment is sent, so that proxies and clients see that the stream lives
KINDS = ("group", "batch", "update", "run", "environment")


class EventFeed:
    """The newest events of this process. A slow reader holds nothing back and costs no memory."""

    def __init__(self) -> None:
        self._boot = uuid4().hex[:8]
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._next = 0
        self._changed = asyncio.Event()
        self._closed = False

    def add(self, events: Sequence[Event]) -> None:
        """Tell the followers."""
        told = [event for event in events if event.kind in KINDS]
        if told:
            self._events.extend(told)
            self._next += len(told)
            self._ring()

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._ring()

    async def follow(self, after: str, wanted: Callable[[Event], bool]) -> AsyncIterator[bytes]:
        """The wanted events from now on, or after the one of that id, as text/event-stream.

        An event `missed` says how many were left out, where the reader was too slow or away for too long.
        """
        position = self._position(after)
        yield b": natgym\n\n"
        while not self._closed:
            changed = self._changed
            oldest = self._next - len(self._events)
            if position < oldest:
                yield self._text(oldest - 1, "missed", {"events": oldest - position})
                position = oldest
            waiting = [self._events[number - oldest] for number in range(position, self._next)]
            for number, event in enumerate(waiting, position):
                if wanted(event):
                    yield self._text(number, event.kind, {"run": event.run, **event.facts})
            position += len(waiting)
            if waiting:
                continue
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await changed.wait()
            except TimeoutError:
                yield b": quiet\n\n"

    def _position(self, after: str) -> int:
        boot, _, number = after.partition("-")
        if boot == self._boot and number.isascii() and number.isdigit() and len(number) < 16:
            return min(int(number) + 1, self._next)
        return self._next

    def _text(self, number: int, kind: str, facts: dict[str, str | int | float | None]) -> bytes:
        return f"id: {self._boot}-{number}\nevent: {kind}\ndata: {json.dumps(facts)}\n\n".encode()

    def _ring(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
