"""The tables themselves: what is kept of a group that is done with."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.wire import encode
from services.rollout_api import ledger
from services.rollout_api.bodies import parcel_of
from services.rollout_api.ledger import FORGET_EVERY, Limits
from services.rollout_api.messages import TakeBatch
from services.rollout_api.schema import open_database
from tests.services.rollout_api.harness import group, run_spec, update

REMEMBERS_TEN = Limits(1000, 1 << 30, remembered_groups=10)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_database(tmp_path / "queue.sqlite")
    yield connection
    connection.close()


def post(db: sqlite3.Connection, name: str, scored: int = 0) -> bool:
    one = group(name, scored=scored, lost=1)
    return ledger.accept_group(db, parcel_of(one, encode(one), 0.0), REMEMBERS_TEN)


def ids(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT id FROM groups ORDER BY arrival")]


def test_old_groups_that_are_done_with_are_forgotten_and_stay_counted(db: sqlite3.Connection):
    for number in range(FORGET_EVERY):
        post(db, f"g{number}")
    assert ids(db) == [f"g{number}" for number in range(FORGET_EVERY - 10, FORGET_EVERY)]
    assert ledger.read_snapshot(db).total.accepted == FORGET_EVERY


def test_a_group_that_is_remembered_is_not_taken_twice(db: sqlite3.Connection):
    for number in range(FORGET_EVERY):
        post(db, f"g{number}")
    assert post(db, f"g{FORGET_EVERY - 10}") is False


def test_a_group_that_waits_is_never_forgotten(db: sqlite3.Connection):
    post(db, "waits", scored=1)
    for number in range(FORGET_EVERY):
        post(db, f"g{number}")
    assert ids(db)[0] == "waits"


def test_old_batches_are_forgotten_and_open_leases_are_not(db: sqlite3.Connection):
    ledger.open_run(db, run_spec())
    for number in range(13):
        post(db, f"g{number}", scored=1)
        ledger.take_batch(db, TakeBatch(batch_id=f"b{number}", groups=1, policy_version=0), 0.0)
        if number > 0:
            ledger.acknowledge(db, f"b{number}", update())
    ledger.forget_finished(db, 10)
    assert [row[0] for row in db.execute("SELECT id FROM batches ORDER BY rowid")][:2] == ["b0", "b3"]
