"""The files beside the database: torn tails, damage, and how they go again."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from core.wire import encode
from services.rollout_api import ledger, ledger_runs
from services.rollout_api.base import Limits, Parcel
from services.rollout_api.compression import body_of, seal
from services.rollout_api.database import Database
from services.rollout_api.messages import TakeBatch
from services.rollout_api.refusals import Damaged
from services.rollout_api.sqlite import SqliteFile
from services.rollout_api.transaction import Transaction, read_snapshot
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import MSGPACK, ApiProcess, group, ids, raw, run_spec, update

T = TypeVar("T")
LIMITS = Limits(1000, 1 << 30)


class Opened:
    """A database whose segments are of a few frames; `with` closes it."""

    def __init__(self, path: Path, segment_bytes: int = 1) -> None:
        self.file = SqliteFile(path, min_free_bytes=0, segment_bytes=segment_bytes)
        self.db: Database = self.file.connect()
        self.folder = path.with_name(path.name + "-frames")

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()
        self.file.close()

    def change(self, operation: Callable[[Transaction], T]) -> T:
        """One operation in a transaction of its own."""
        self.db.begin()
        t = Transaction(self.db, read_snapshot(self.db), LIMITS)
        outcome = operation(t)
        t.write_counts()
        self.db.commit(())
        return outcome

    def post(self, *names: str) -> None:
        """Groups that share a transaction."""
        self.change(lambda t: [ledger.put_group(t, seal(parcel(name))) for name in names])

    def train_on(self, groups: int) -> None:
        """Take so many groups, and acknowledge them."""
        name = f"b{os.urandom(4).hex()}"
        wanted = TakeBatch(batch_id=name, groups=groups, policy_version=0)
        assert self.change(lambda t: ledger.take_batch(t, wanted, 0.0)) is not None
        self.change(lambda t: ledger.acknowledge(t, name, update()))

    def bodies(self) -> dict[str, bytes]:
        """What is kept, by id."""
        rows = self.db.rows("SELECT id, arrival FROM groups JOIN payloads USING (arrival) ORDER BY arrival")
        return {name: body_of(self.db.payloads.read([arrival])[0]) for name, arrival in rows}

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir(), key=lambda path: int(path.stem))


def parcel(name: str) -> Parcel:
    return Parcel(name, "sums", policy_version=0, scored=2, lost=0, body=encode(group(name)), accepted_at=0.0)


def expected(*names: str) -> dict[str, bytes]:
    return {name: encode(group(name)) for name in names}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    with Opened(tmp_path / "q") as one:
        one.change(lambda t: ledger_runs.open_run(t, run_spec()))
        yield one


async def test_kill_9_and_a_torn_tail_cost_nothing_that_was_accepted(tmp_path: Path):
    names = [f"g{number}" for number in range(6)]
    with ApiProcess(tmp_path / "q") as api:
        async with RolloutClient(api.url) as client:
            await client.open_run(run_spec())
            for tail in (b"\x28\xb5\x2f\xfd a frame that ends too ea", os.urandom(100_000)):
                await client.post_group(group(names[0]))
                names.append(names.pop(0))
                api.kill()
                newest = max((tmp_path / "q-frames").iterdir(), key=lambda path: int(path.stem))
                whole = newest.stat().st_size
                with newest.open("ab") as file:
                    file.write(tail)
                api.restart()
                assert newest.stat().st_size == whole
            for name in names[:4]:
                await client.post_group(group(name))
            taken = await client.take_batch(6, 0)
    assert taken is not None
    assert taken.groups == tuple(group(f"g{number}") for number in range(6))


async def test_a_group_that_the_disk_lost_is_dropped_and_the_others_are_delivered(tmp_path: Path):
    with ApiProcess(tmp_path / "q") as api:
        async with RolloutClient(api.url) as client:
            await client.open_run(run_spec())
            for name in ("a", "b", "c"):
                await client.post_group(group(name))
            api.kill()
            (segment,) = (tmp_path / "q-frames").iterdir()
            os.truncate(segment, segment.stat().st_size - 10)
            api.restart()
            taken = await client.take_batch(3, 0)
            assert taken is not None
            await client.acknowledge(taken.batch_id, update())
            counts = (await client.status()).counts
    assert ids(taken.groups) == ["a", "b"]
    assert (counts.trained, counts.dropped, counts.queued, counts.leased) == (2, 1, 0, 0)


def test_a_byte_that_changed_on_the_disk_is_noticed(opened: Opened):
    opened.post("a", "b")
    (segment,) = opened.files()
    content = bytearray(segment.read_bytes())
    content[-20] ^= 1
    segment.write_bytes(content)
    assert body_of(opened.db.payloads.read([1])[0]) == encode(group("a"))
    with pytest.raises(Damaged):
        opened.db.payloads.read([2])


async def test_a_segment_that_cannot_be_opened_for_a_moment_costs_no_group(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        await http.post("/v1/groups", content=encode(group("a")), headers=MSGPACK)
        (segment,) = (tmp_path / "q-frames").iterdir()
        kept = segment.rename(tmp_path / "kept")
        segment.symlink_to(segment.name)  # a ring: opening fails, as it does where there are too many open files
        refused = await http.get("/v1/groups/a")
        kept.replace(segment)
        found = await http.get("/v1/groups/a")
    assert (refused.status_code, found.status_code) == (503, 200)
    assert found.headers["X-Group-State"] == "queued"


def test_a_damaged_segment_does_not_keep_the_others_from_shrinking(tmp_path: Path):
    with Opened(tmp_path / "q", segment_bytes=1000) as opened:
        opened.change(lambda t: ledger_runs.open_run(t, run_spec()))
        for name in ("d", "e", "f"):
            opened.post(*(f"{name}{number}" for number in range(16)))
        damaged, sparse, _ = opened.files()
        damaged.write_bytes(bytes(damaged.stat().st_size))
        opened.train_on(15)  # leaves little of the damaged one
        opened.change(lambda t: ledger.take_batch(t, TakeBatch(batch_id="held", groups=1, policy_version=0), 0.0))
        opened.train_on(15)
        assert sparse not in opened.files()
        assert damaged in opened.files()


def test_a_segment_goes_with_the_last_group_in_it(opened: Opened):
    for name in ("a", "b", "c"):
        opened.post(name, f"{name}2")
    assert len(opened.files()) == 3
    opened.train_on(3)
    assert len(opened.files()) == 2
    opened.train_on(3)
    assert opened.files() == []


def test_few_old_groups_do_not_hold_a_whole_segment(tmp_path: Path):
    names = [f"g{number}" for number in range(16)]
    with Opened(tmp_path / "q", segment_bytes=1000) as opened:
        opened.change(lambda t: ledger_runs.open_run(t, run_spec()))
        opened.post(*names)
        opened.post("later")
        first = opened.files()[0]
        opened.train_on(14)
        assert first not in opened.files()
        assert opened.bodies() == expected("g14", "g15", "later")
    with Opened(tmp_path / "q", segment_bytes=1000) as again:
        assert again.bodies() == expected("g14", "g15", "later")


def test_a_transaction_that_is_rolled_back_leaves_nothing_in_the_files(opened: Opened):
    opened.post("a")
    before = [(path, path.stat().st_size) for path in opened.files()]
    opened.db.begin()
    t = Transaction(opened.db, read_snapshot(opened.db), LIMITS)
    for name in ("b", "c"):
        ledger.put_group(t, seal(parcel(name)))
    opened.db.payloads.drop_where("arrival < 0", ())  # writes what waits
    assert [(path, path.stat().st_size) for path in opened.files()] != before
    opened.db.rollback()
    assert [(path, path.stat().st_size) for path in opened.files()] == before
    opened.post("d")
    assert opened.bodies() == expected("a", "d")


def test_a_group_that_is_dropped_in_the_transaction_that_brought_it_is_not_kept(opened: Opened):
    def come_and_go(t: Transaction) -> None:
        ledger.put_group(t, seal(parcel("a")))
        ledger.give_up(t, 1)

    opened.change(come_and_go)
    assert (opened.bodies(), opened.files()) == ({}, [])


def test_a_segment_that_no_commit_knows_is_deleted_at_the_start(tmp_path: Path):
    with Opened(tmp_path / "q") as opened:
        opened.post("a")
        stray = opened.folder / "7.frames"
        stray.write_bytes(b"what a commit left that did not end")
    with Opened(tmp_path / "q") as again:
        assert not stray.exists()
        again.post("b")
        assert again.bodies() == expected("a", "b")


def test_the_limit_of_the_database_counts_its_segments(tmp_path: Path):
    with Opened(tmp_path / "q") as opened:
        opened.post("a")
        before = opened.file.used_bytes()
        opened.post("b")
        grown = opened.files()[1].stat().st_size
        assert opened.file.used_bytes() >= before + grown
