"""As many requests at once as the server bears, in the order in which they came."""

import asyncio
from collections.abc import Callable

import pytest

from core.clock import SystemClock
from environments.concurrency import START, ConcurrencyLimit


class Model(SystemClock):
    """A server in a model: time moves only where a request is on its way, and nobody waits for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


async def rounds(limit: ConcurrencyLimit, model: Model, latency: Callable[[int], float], count: int) -> list[int]:
    """As many requests as are let in start together and end together, `count` times; how many that were."""
    seen = []
    for _ in range(count):
        started, go = asyncio.Event(), asyncio.Event()
        together = limit.allowed
        inside = 0

        async def ask(together: int = together, started: asyncio.Event = started, go: asyncio.Event = go) -> None:
            nonlocal inside
            async with limit.slot() as slot:
                inside += 1
                if inside == together:
                    started.set()
                await go.wait()
                slot.answered(1)

        asking = [asyncio.create_task(ask()) for _ in range(together)]
        await started.wait()
        model.seconds += latency(together)
        go.set()
        await asyncio.gather(*asking)
        seen.append(together)
    return seen


async def test_a_server_that_stays_quick_is_given_as_much_as_the_ceiling():
    limit = ConcurrencyLimit(500, model := Model())
    assert (await rounds(limit, model, lambda together: 1.0, 20))[-1] == 500


async def test_a_server_that_becomes_slow_is_given_what_it_can_do_at_once():
    limit = ConcurrencyLimit(500, model := Model())
    seen = await rounds(limit, model, lambda together: max(1.0, together / 64), 200)
    # 64 at once, half as many again are within the tolerance, and a few wait: far from the 500 that were allowed
    settled = sorted(seen[60:])
    assert 64 <= settled[len(settled) // 2] <= 130


async def test_latency_alone_takes_it_below_no_small_number():
    limit = ConcurrencyLimit(500, model := Model())
    await rounds(limit, model, lambda together: together**3, 100)
    assert limit.allowed >= START


async def test_a_refusal_is_a_decrease_and_refusals_of_the_same_moment_are_one():
    limit = ConcurrencyLimit(20)

    async def refused() -> None:
        async with limit.slot() as slot:
            await asyncio.sleep(0)
            slot.refused()

    await asyncio.gather(*(refused() for _ in range(20)))
    assert limit.allowed == 14


async def test_refusals_take_it_down_to_one_and_answers_up_again():
    limit = ConcurrencyLimit(20, model := Model())
    for _ in range(40):
        async with limit.slot() as slot:
            slot.refused()
    assert limit.allowed == 1
    await rounds(limit, model, lambda together: 1.0, 300)
    assert limit.allowed == 20


async def test_never_more_than_allowed_are_on_their_way_and_none_overtakes():
    limit, order, most = ConcurrencyLimit(3), list[int](), 0

    async def ask(number: int) -> None:
        nonlocal most
        async with limit.slot():
            order.append(number)
            most = max(most, limit.load().in_flight)
            await asyncio.sleep(0)

    await asyncio.gather(*(ask(number) for number in range(50)))
    assert (order, most) == (list(range(50)), 3)


@pytest.mark.parametrize("granted", [True, False])
async def test_one_who_gives_up_in_the_line_leaves_no_gap(granted: bool):
    limit = ConcurrencyLimit(1)
    done = asyncio.Event()

    async def hold() -> None:
        async with limit.slot():
            await done.wait()

    async def ask() -> None:
        async with limit.slot():
            pass

    holder, first, second = (asyncio.create_task(one) for one in (hold(), ask(), ask()))
    await asyncio.sleep(0)
    assert limit.load() == (1, 1, 1, 2)
    if granted:  # its turn comes in the moment in which it is cancelled
        done.set()
        await asyncio.sleep(0)
    first.cancel()
    done.set()
    await asyncio.gather(holder, second, first, return_exceptions=True)
    assert limit.load() == (0, 1, 1, 0)


def test_the_load_is_one_line():
    assert ConcurrencyLimit(7).load().line() == "0 of 7 requests at once"
