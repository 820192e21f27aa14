"""The machine's clock keeps the three promises of the contract."""

import time

from core.clock import Clock, SystemClock

CLOCK: Clock = SystemClock()


def test_now_is_seconds_since_1970():
    assert abs(CLOCK.now() - time.time()) < 60  # the same clock, read twice


def test_monotonic_never_goes_back():
    assert CLOCK.monotonic() <= CLOCK.monotonic()


async def test_sleep_returns_after_at_least_that_time():
    started = CLOCK.monotonic()
    await CLOCK.sleep(0.01)
    assert CLOCK.monotonic() - started >= 0.009  # timers may round down to their resolution
