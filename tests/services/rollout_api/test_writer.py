"""The thread behind the queue: how much may wait for it."""

import asyncio
import sqlite3
from pathlib import Path
from threading import Event

import pytest

from services.rollout_api.refusals import TryLater
from services.rollout_api.schema import open_database
from services.rollout_api.writer import Writer


async def test_who_comes_when_enough_are_waiting_is_told_to_come_back(tmp_path: Path):
    db = open_database(tmp_path / "queue.sqlite")
    writer = Writer(db, lambda snapshot: None, max_waiting=1)
    begun, disk = Event(), Event()

    def slow(connection: sqlite3.Connection) -> bool:
        begun.set()
        return disk.wait()

    working = asyncio.create_task(writer.run(slow))
    await asyncio.to_thread(begun.wait)
    waiting = asyncio.create_task(writer.run(lambda connection: "second"))
    await asyncio.sleep(0)  # it has been put behind the slow one
    with pytest.raises(TryLater, match="1 operations wait for the disk"):
        await writer.run(lambda connection: "third")
    disk.set()
    assert (await working, await waiting) == (True, "second")
    await writer.close()
    db.close()
