"""How fast a backend is asked for sandboxes, and when it is not asked at all."""

import asyncio
import fcntl
import os
import random
from pathlib import Path

from pydantic import Field

from backends.base import Backend, BackendUnavailable, Blame, RateLimited, Sandbox, SandboxError, SandboxSpec
from backends.errors import blame_of
from core.clock import Clock
from core.config import Config
from core.errors import boundary

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0


class PoolRules(Config):
    """How a pool treats its backend."""

    starting: int = Field(default=8, gt=0, description="how many sandboxes may be in the making at once")
    creations_per_second: float = Field(default=0.0, ge=0, description="0: as fast as they are made")
    pace_file: str = Field(default="", description="a file that processes share, so that the rate holds for all of them")
    deadline_seconds: float = Field(default=60.0, gt=0, description="for one creation")
    attempts: int = Field(default=3, gt=0, description="of one creation, where its error is worth another")
    breaker_failures: int = Field(default=5, gt=0, description="failed creations in a row after which nothing is asked for")
    breaker_seconds: float = Field(default=30.0, gt=0, description="for that long; then one is tried")
    lease_seconds: float = Field(default=0.0, ge=0, description="a lease without a heartbeat for that long ends; 0: never")
    reuses: int = Field(default=0, ge=0, description="how often a sandbox is reset and leased again, where its backend can")


class Pace:
    """Start times that are at least 1/rate seconds apart, in this process, or in all that share a file."""

    def __init__(self, per_second: float, file: str, clock: Clock) -> None:
        self._gap_seconds = 1 / per_second if per_second else 0.0
        self._file, self._clock = file, clock
        self._next = 0.0

    async def wait(self) -> None:
        """Return when it is the caller's turn; turns are in the order of the calls."""
        if self._gap_seconds:
            turn = self._turn_in_file() if self._file else self._turn(self._next)
            await self._clock.sleep(max(0.0, turn - self._clock.monotonic()))

    def _turn(self, following: float) -> float:
        turn = max(following, self._clock.monotonic())
        self._next = turn + self._gap_seconds
        return turn

    def _turn_in_file(self) -> float:
        """The same with the time of the next turn in the file. The system's monotonic clock is one for all processes."""
        fd = os.open(Path(self._file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            text = os.read(fd, 64).decode("ascii", "replace").strip()
            following = float(text) if text.replace(".", "", 1).isdigit() else 0.0
            # a time far ahead was written before the machine was started again
            turn = self._turn(min(following, self._clock.monotonic() + 3600))
            os.pwrite(fd, f"{self._next:<32.6f}".encode(), 0)
            return turn
        finally:
            os.close(fd)


class Refused(BackendUnavailable):
    """The breaker's own refusal: another attempt at once would be refused too."""


class Breaker:
    """Stops asking a backend that fails again and again, and tries it once after a while."""

    def __init__(self, rules: PoolRules, clock: Clock) -> None:
        self._rules, self._clock = rules, clock
        self._failures = 0
        self._closed_at = 0.0

    def check(self) -> None:
        """Raises Refused while nothing is to be asked for."""
        left = self._closed_at - self._clock.monotonic()
        if self._failures >= self._rules.breaker_failures:
            if left > 0:
                raise Refused(f"{self._failures} sandboxes in a row could not be made; tried again in {left:.0f} s")
            self._closed_at = self._clock.monotonic() + self._rules.breaker_seconds  # this caller tries, the others wait

    def succeeded(self) -> None:
        """A sandbox was made."""
        self._failures = 0

    def failed(self, error: SandboxError) -> None:
        """One was not. A spec that no backend could fulfil says nothing about this one."""
        if blame_of(error) is Blame.INFRA:
            self._failures += 1
            self._closed_at = self._clock.monotonic() + self._rules.breaker_seconds


class Maker:
    """Makes sandboxes of one spec, within the rules."""

    def __init__(self, backend: Backend, spec: SandboxSpec, rules: PoolRules, clock: Clock) -> None:
        self._backend, self._spec, self._rules, self._clock = backend, spec, rules, clock
        self._starting = asyncio.Semaphore(rules.starting)
        self._pace = Pace(rules.creations_per_second, rules.pace_file, clock)
        self._breaker = Breaker(rules, clock)

    async def make(self) -> Sandbox:
        """A sandbox. Errors that are worth it are tried again after a pause. Raises SandboxError or MissingRuntime."""
        token = os.urandom(16).hex()  # the same one in every attempt, so that no attempt leaves a second sandbox
        for attempt in range(self._rules.attempts):
            try:
                return await self._once(token)
            except SandboxError as error:
                if not error.retryable or attempt + 1 == self._rules.attempts or isinstance(error, Refused):
                    raise
                await self._clock.sleep(_pause(error, attempt))
        raise AssertionError("there is at least one attempt")

    async def _once(self, token: str) -> Sandbox:
        async with self._starting:
            self._breaker.check()
            await self._pace.wait()
            try:
                with boundary(SandboxError, "pool.create"):
                    seconds = self._rules.deadline_seconds
                    sandbox = await self._backend.create(self._spec, token=token, deadline_seconds=seconds)
            except SandboxError as error:
                self._breaker.failed(error)
                raise
            self._breaker.succeeded()
            return sandbox


def _pause(error: SandboxError, attempt: int) -> float:
    """Seconds before the next attempt: what the backend asked for, else twice as long each time; never all at once."""
    asked = error.retry_after_seconds if isinstance(error, RateLimited) else 0.0
    pause = asked or min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(1.0, 1.5)
