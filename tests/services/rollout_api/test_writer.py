"""The thread behind the queue: how much may wait for it."""

import asyncio
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from services.rollout_api import ledger
from services.rollout_api.base import Limits
from services.rollout_api.refusals import TryLater
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.transaction import Transaction
from services.rollout_api.writer import Writer


class SlowDisk:
    """An operation that lasts until it is let go."""

    def __init__(self) -> None:
        self.begun, self.free = Event(), Event()

    def __call__(self, t: Transaction) -> bool:
        self.begun.set()
        return self.free.wait()


async def test_an_operation_that_breaks_takes_nothing_of_the_others_with_it(tmp_path: Path):
    file = SqliteFile(tmp_path / "queue.sqlite", min_free_bytes=0)
    db = file.connect()
    writer = Writer(db, Limits(10, 1 << 20), lambda snapshot, events: None)
    slow = SlowDisk()

    def broken(t: Transaction) -> None:
        ledger.put_note(t, "broken", b"half")
        raise ZeroDivisionError

    working = asyncio.create_task(writer.run(slow))
    await asyncio.to_thread(slow.begun.wait)  # the others wait together, and share a transaction
    others = [partial(ledger.put_note, key="one", value=b"1"), broken, partial(ledger.put_note, key="two", value=b"2")]
    waiting = [asyncio.create_task(writer.run(other)) for other in others]
    await asyncio.sleep(0)
    slow.free.set()
    outcomes = await asyncio.gather(working, *waiting, return_exceptions=True)
    notes = ledger.read_notes(db, "")
    await writer.close()
    db.close()
    file.close()
    assert [type(outcome) for outcome in outcomes] == [bool, type(None), ZeroDivisionError, type(None)]
    assert notes == {"one": b"1", "two": b"2"}


async def test_bodies_that_wait_for_the_disk_are_bounded(tmp_path: Path):
    file = SqliteFile(tmp_path / "queue.sqlite", min_free_bytes=0)
    db = file.connect()
    writer = Writer(db, Limits(1, 1), lambda snapshot, events: None, max_waiting_bytes=10)
    slow = SlowDisk()

    working = asyncio.create_task(writer.run(slow, size=100))  # more than all together, but alone
    await asyncio.to_thread(slow.begun.wait)
    with pytest.raises(TryLater, match="100 bytes wait for the disk"):
        await writer.run(lambda t: "second", size=1)
    slow.free.set()
    assert await working
    assert await writer.run(lambda t: "third", size=10) == "third"
    assert await writer.run(lambda t: "fourth", size=10) == "fourth"
    await writer.close()
    db.close()
    file.close()


async def test_who_comes_when_enough_are_waiting_is_told_to_come_back(tmp_path: Path):
    file = SqliteFile(tmp_path / "queue.sqlite", min_free_bytes=0)
    db = file.connect()
    writer = Writer(db, Limits(1, 1), lambda snapshot, events: None, max_waiting=1)
    slow = SlowDisk()

    working = asyncio.create_task(writer.run(slow))
    await asyncio.to_thread(slow.begun.wait)
    waiting = asyncio.create_task(writer.run(lambda t: "second"))
    await asyncio.sleep(0)  # it has been put behind the slow one
    with pytest.raises(TryLater, match="1 operations wait for the disk"):
        await writer.run(lambda t: "third")
    slow.free.set()
    assert (await working, await waiting) == (True, "second")
    await writer.close()
    db.close()
    file.close()
