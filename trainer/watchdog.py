"""Says what stands still: a line in the log that names the part and what it waits for, once more while it does.

Peers of this project hang in silence, with idle processors and no error; who trains should not have to guess.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from core.clock import Clock
from core.logs import get_logger

log = get_logger("watchdog")


@dataclass
class Part:
    """Something that should move."""

    name: str
    progress: Callable[[], object]
    """A value that changes whenever the part moves; None while it has nothing to do."""
    explain: Callable[[], Awaitable[str]]
    """What it is doing or waiting for, and what may be done about it."""
    _seen: object = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)

    def still_for(self, now: float) -> float:
        """Seconds since it last moved; 0.0 where it has nothing to do."""
        found = self.progress()
        if found is None or found != self._seen:
            self._seen, self._since = found, now
        return now - self._since


class Stuck(NamedTuple):
    """A part that has not moved for too long."""

    part: str
    seconds: float
    detail: str


class Watchdog:
    """Looks at every part now and then; `run` until cancelled."""

    def __init__(self, parts: Sequence[Part], after_seconds: float, clock: Clock) -> None:
        """A part that has not moved for `after_seconds` is told, and again each time that long has passed."""
        self._parts, self._after_seconds, self._clock = parts, after_seconds, clock
        self._told_at: dict[str, float] = {}

    async def look(self) -> list[Stuck]:
        """The parts that stand still and were not told of lately."""
        found: list[Stuck] = []
        for part in self._parts:
            now = self._clock.monotonic()
            seconds = part.still_for(now)
            if seconds < self._after_seconds:
                self._told_at.pop(part.name, None)
            elif now - self._told_at.get(part.name, -self._after_seconds) >= self._after_seconds:
                self._told_at[part.name] = now
                found.append(Stuck(part.name, seconds, await part.explain()))
        return found

    async def run(self) -> None:
        """Look four times in the span after which a part counts as stuck, and log what is."""
        while True:
            await self._clock.sleep(self._after_seconds / 4)
            for one in await self.look():
                log.warning("stuck", part=one.part, seconds=round(one.seconds), detail=one.detail)
