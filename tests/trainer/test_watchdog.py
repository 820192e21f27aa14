"""What stands still is named once it has for too long, and again only after that long."""

from collections.abc import Callable

from tests.fakes import HeldClock
from trainer.watchdog import Part, Watchdog


def part(name: str, progress: Callable[[], object]) -> Part:
    async def explain() -> str:
        return f"why {name} stands"

    return Part(name, progress, explain)


async def test_what_moves_is_not_told_of_and_what_stands_is():
    clock, steps = HeldClock(), iter(range(100))
    dog = Watchdog((part("moves", lambda: next(steps)), part("stands", lambda: 1)), 10.0, clock)
    told = []
    for _ in range(6):
        told.append([(one.part, one.detail) for one in await dog.look()])
        clock.seconds += 5.0
    assert told == [[], [], [("stands", "why stands stands")], [], [("stands", "why stands stands")], []]


async def test_a_part_with_nothing_to_do_is_not_stuck():
    clock = HeldClock()
    dog = Watchdog((part("idle", lambda: None),), 10.0, clock)
    for _ in range(4):
        assert await dog.look() == []
        clock.seconds += 20.0


async def test_what_moves_again_is_told_of_anew_when_it_stops():
    clock, value = HeldClock(), [0]
    dog = Watchdog((part("one", lambda: value[0]),), 10.0, clock)
    await dog.look()
    clock.seconds += 11.0
    assert [one.seconds for one in await dog.look()] == [11.0]
    value[0] += 1
    assert await dog.look() == []
    clock.seconds += 10.0
    assert [one.seconds for one in await dog.look()] == [10.0]
