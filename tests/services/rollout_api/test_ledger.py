"""The tables themselves: what is kept of a group that is done with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from core.wire import encode
from services.rollout_api import ledger, ledger_runs
from services.rollout_api.base import Limits, Parcel
from services.rollout_api.compression import seal
from services.rollout_api.database import Database
from services.rollout_api.ledger import FORGET_EVERY
from services.rollout_api.messages import TakeBatch
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.transaction import Transaction, read_snapshot
from tests.services.rollout_api.harness import group, run_spec, update

REMEMBERS_TEN = Limits(1000, 1 << 30, remembered_groups=10)
T = TypeVar("T")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    file = SqliteFile(tmp_path / "queue.sqlite", min_free_bytes=0)
    database = file.connect()
    yield database
    database.close()
    file.close()


def change(db: Database, operation: Callable[[Transaction], T]) -> T:
    """One operation in a transaction of its own."""
    db.begin()
    t = Transaction(db, read_snapshot(db), REMEMBERS_TEN)
    outcome = operation(t)
    t.write_counts()
    db.commit(())
    return outcome


def post(db: Database, name: str, scored: int = 0) -> bool:
    one = group(name, scored=scored, lost=1)
    parcel = Parcel(id=name, environment="sums", policy_version=0, scored=scored, lost=1, body=encode(one), accepted_at=0.0)
    return change(db, lambda t: ledger.put_group(t, seal(parcel)))


def ids(db: Database) -> list[str]:
    return [row[0] for row in db.rows("SELECT id FROM groups ORDER BY arrival")]


def test_old_groups_that_are_done_with_are_forgotten_and_stay_counted(db: Database):
    for number in range(FORGET_EVERY):
        post(db, f"g{number}")
    assert ids(db) == [f"g{number}" for number in range(FORGET_EVERY - 10, FORGET_EVERY)]
    assert read_snapshot(db).total().accepted == FORGET_EVERY


def test_a_group_that_is_remembered_is_not_taken_twice(db: Database):
    for number in range(FORGET_EVERY):
        post(db, f"g{number}")
    assert post(db, f"g{FORGET_EVERY - 10}") is False


def test_a_group_that_waits_is_never_forgotten(db: Database):
    post(db, "waits", scored=1)
    for number in range(FORGET_EVERY):
        post(db, f"g{number}")
    assert ids(db)[0] == "waits"


def test_old_batches_are_forgotten_and_open_leases_are_not(db: Database):
    change(db, lambda t: ledger_runs.open_run(t, run_spec()))
    for number in range(13):
        post(db, f"g{number}", scored=1)
        wanted = TakeBatch(batch_id=f"b{number}", groups=1, policy_version=0)
        change(db, lambda t, wanted=wanted: ledger.take_batch(t, wanted, 0.0))
        if number > 0:
            change(db, lambda t, wanted=wanted: ledger.acknowledge(t, wanted.batch_id, update()))
    change(db, ledger.forget_finished)
    assert [row[0] for row in db.rows("SELECT id FROM batches ORDER BY taken")][:2] == ["b0", "b3"]
