"""How many requests may be on their way at once: a ceiling, and below it what the server bears at the moment.

Slow start, additive increase and multiplicative decrease (Chiu and Jain 1989; RFC 5681). What counts as congestion is a
server that says so or does not answer, and the gradient of its latency: the least seconds per token that it was seen with
over those of now (GradientLimit of Netflix's concurrency-limits). That least is forgotten and measured anew from time to
time, at half the load, as BBR does. Latency alone takes nothing below START: a server that batches is slower for each
request, and faster for all of them.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from math import inf, sqrt

from core.clock import Clock, SystemClock
from core.logs import get_logger
from environments.policy import Load

Waits = Callable[[], AbstractContextManager[object]]

log = get_logger("policy")

START = 32
TOLERANCE = 1.5
"""Seconds per token may be so many times the least."""
BACK_OFF = 0.7
SMOOTHING = 0.2
SHORTEST = 1e-9
"""Seconds a token; a clock may not have moved."""
SMALLEST_WINDOW = 8
"""Answers; else a window is as many as may be on their way."""
REMEASURE = 64
"""Windows after which the least seconds per token are measured anew."""


class ConcurrencyLimit:
    """Lets requests through in the order in which they came. Shared by all episodes of a policy."""

    def __init__(self, most: int, clock: Clock | None = None) -> None:
        self._most, self._clock = most, clock or SystemClock()
        self._allowed = self._floor = float(min(most, START))
        self._in_flight, self._waiting = 0, deque[asyncio.Future[None]]()
        self._started = self._forgiven = self._ignored = 0
        """Requests so far; those up to which a refusal, or an answer, says nothing new."""
        self._slow_start, self._least, self._windows = True, inf, 0
        self._begin_window()

    @property
    def allowed(self) -> int:
        """How many may be on their way now, at least one."""
        return max(1, int(self._allowed))

    def load(self) -> Load:
        """How many are on their way, may be and wait."""
        return Load(in_flight=self._in_flight, allowed=self.allowed, most=self._most, waiting=len(self._waiting))

    @asynccontextmanager
    async def slot(self, waits: Waits = nullcontext) -> AsyncIterator["Slot"]:
        """Wait for a turn, in the block that `waits` opens, and hold it for the length of this one."""
        await self._enter(waits)
        self._started += 1
        try:
            yield Slot(self, self._started, self._clock.monotonic())
        finally:
            self._leave()

    async def _enter(self, waits: Waits) -> None:
        if self._in_flight < self.allowed and not self._waiting:
            self._in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            with waits():
                await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the turn had come: it is the next one's now
                self._leave()
            with suppress(ValueError):
                self._waiting.remove(turn)
            raise

    def _leave(self) -> None:
        self._in_flight -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._in_flight < self.allowed:
            turn = self._waiting.popleft()
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)

    def _answered(self, number: int, seconds: float, tokens: int) -> None:
        # where the limit held nobody back, and of a request that began under another one, this says nothing about it
        if 2 * self._in_flight < self.allowed or number <= self._ignored:
            return
        self._seconds, self._tokens, self._answers = self._seconds + seconds, self._tokens + tokens, self._answers + 1
        if self._slow_start and self._least < inf:
            self._allowed = min(self._most, self._allowed + 1)
        if self._answers >= self._window:
            self._adapt(max(self._seconds / self._tokens, SHORTEST))
            self._begin_window()

    def _begin_window(self) -> None:
        self._seconds, self._tokens, self._answers, self._window = 0.0, 0, 0, max(SMALLEST_WINDOW, self.allowed)

    def _refused(self, number: int) -> None:
        """One decrease for all that were on their way together: they saw the same crowd."""
        if number <= self._forgiven:
            return
        self._forgiven, self._slow_start = self._started, False
        self._allowed = max(1.0, self._allowed * BACK_OFF)
        self._tell("refused")

    def _adapt(self, seconds_per_token: float) -> None:
        self._windows += 1
        self._least = min(self._least, seconds_per_token)
        gradient = max(0.5, min(1.0, TOLERANCE * self._least / seconds_per_token))
        self._slow_start = self._slow_start and gradient == 1.0
        wanted = self._allowed * gradient + sqrt(self._allowed)
        changed = (1 - SMOOTHING) * self._allowed + SMOOTHING * wanted
        lowest = min(self._floor, self._allowed)
        self._allowed = min(float(self._most), max(lowest, changed))
        if self._windows % REMEASURE == 0 and self._allowed > self._floor:
            self._allowed, self._least, self._slow_start = max(self._floor, self._allowed / 2), inf, True
            self._ignored = self._started
        self._tell("latency", seconds_per_token=round(seconds_per_token, 6))

    def _tell(self, why: str, **facts: float) -> None:
        self._let_in()
        log.debug("policy_concurrency", why=why, **self.load()._asdict(), **facts)


class Slot:
    """One request on its way; what became of it is what the limit learns from."""

    def __init__(self, limit: ConcurrencyLimit, number: int, started: float) -> None:
        self._limit, self._number, self._started = limit, number, started

    def answered(self, tokens: int) -> None:
        """The server answered, with so many tokens."""
        self._limit._answered(self._number, self._limit._clock.monotonic() - self._started, max(1, tokens))

    def refused(self) -> None:
        """The server was too busy, or did not answer in time."""
        self._limit._refused(self._number)
