"""The queue in a real PostgreSQL server: one rollout API, and several over the same database."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from core.errors import ConfigError
from core.wire import encode
from services.rollout_api import ledger, ledger_runs
from services.rollout_api.base import Limits, Parcel
from services.rollout_api.compression import seal
from services.rollout_api.messages import GroupFilter, TakeBatch
from services.rollout_api.postgres import PostgresServer
from services.rollout_api.refusals import Conflict
from services.rollout_api.store import LedgerStore
from services.rollout_api.transaction import Transaction, read_snapshot
from services.sdk.connection import Refused
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import ROOMY, ApiProcess, group, ids, run_spec, serving, update
from tests.services.rollout_api.postgres_server import PostgresProcess

pytest.importorskip("psycopg")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresProcess]:
    with PostgresProcess() as process:
        yield process


@pytest.fixture
def database(server: PostgresProcess) -> str:
    return server.new_database()


@asynccontextmanager
async def two(database: str, batch: int = 2) -> AsyncIterator[tuple[RolloutClient, RolloutClient]]:
    """Clients of two rollout APIs over one database, in which a run is open."""
    async with (
        serving(database) as one,
        serving(database) as other,
        RolloutClient(one) as first,
        RolloutClient(other) as second,
    ):
        await first.register_environment("sums")
        await first.open_run(run_spec(batch=batch))
        while (await second.status()).run is None:
            await asyncio.sleep(0.01)
        yield first, second


async def test_a_group_comes_out_as_it_went_in(database: str):
    sent = group("a", scored=2, lost=1)
    async with serving(database) as url, RolloutClient(url) as client:
        await client.open_run(run_spec())
        assert [await client.post_group(sent), await client.post_group(sent)] == [True, False]
        taken = await client.take_batch(1, 0)
        assert taken is not None
        run = await client.acknowledge(taken.batch_id, update())
        counts = (await client.status()).counts
    assert (taken.groups, run.step, counts.trained, counts.lost_trajectories) == ((sent,), 1, 1, 1)


async def test_another_content_under_a_known_id_is_a_conflict_and_hurts_nobody_else(database: str):
    async with serving(database) as url, RolloutClient(url) as client:
        await client.post_group(group("a"))
        outcomes = await asyncio.gather(
            client.post_group(group("b")), client.post_group(group("a", scored=3)), client.post_group(group("c")),
            return_exceptions=True,
        )  # fmt: skip
        counts = (await client.status()).counts
    assert [type(outcome) for outcome in outcomes] == [bool, Refused, bool]
    assert counts.queued == 3


async def test_everything_is_there_after_a_restart(database: str):
    async with serving(database) as url, RolloutClient(url) as client:
        await client.register_environment("sums", weight=2.0, min_share=0.25)
        await client.open_run(run_spec(step=4, policy_version=4))
        await client.post_group(group("a", policy_version=4))
        before = await client.status()
    async with serving(database) as url, RolloutClient(url) as client:
        assert await client.status() == before
        assert [one.id for one in (await client.groups(GroupFilter(environment="sums"))).groups] == ["a"]
        assert (await client.group("a")).id == "a"


async def test_two_processes_never_deliver_a_group_twice(database: str):
    async with two(database) as clients:
        names = [f"g{number}" for number in range(24)]
        await asyncio.gather(*(clients[number % 2].post_group(group(name)) for number, name in enumerate(names)))
        batches = await asyncio.gather(*(clients[number % 2].take_batch(2, 0, wait_seconds=60) for number in range(12)))
    delivered = [name for taken in batches if taken is not None for name in ids(taken.groups)]
    assert sorted(delivered) == sorted(names)


async def test_the_same_group_posted_to_both_counts_once(database: str):
    async with two(database) as (one, other):
        first = await asyncio.gather(*(client.post_group(group("a")) for client in (one, other, one, other)))
        async with asyncio.timeout(30):  # the other process may have been the one that told of it
            while not (counts := (await one.status()).counts).accepted:
                await asyncio.sleep(0.01)
    assert sorted(first) == [False, False, False, True]
    assert counts.accepted == 1


async def test_a_trainer_wakes_when_another_process_accepts_a_group(database: str):
    async with two(database) as (one, other):
        waiting = asyncio.create_task(one.take_batch(1, 0, wait_seconds=60))
        await asyncio.sleep(0.2)
        await other.post_group(group("a"))
        async with asyncio.timeout(50):  # less than the 60 seconds that it may wait
            taken = await waiting
    assert taken is not None
    assert ids(taken.groups) == ["a"]


async def test_two_processes_never_ask_for_more_than_the_run_can_use(database: str):
    async with two(database, batch=10) as clients:
        answers = await asyncio.gather(
            *(clients[number % 2].demand("sums", 0, worker=f"w{number}", most=1) for number in range(40))
        )
    assert sum(answer.groups for answer in answers) == 10


async def test_a_process_that_starts_knows_what_servers_were_asked_for(database: str):
    async with serving(database) as url, RolloutClient(url) as client:
        await client.register_environment("sums")
        await client.open_run(run_spec())
        assert (await client.demand("sums", 0, worker="a")).groups == 2
        async with serving(database) as other, RolloutClient(other) as second:
            assert (await second.demand("sums", 0, worker="b")).groups == 0


async def test_an_event_is_heard_by_followers_of_the_other_process(database: str):
    async with two(database) as (one, other):
        stream = other.events(["group"])
        heard = asyncio.ensure_future(anext(stream))
        posted = 0
        async with asyncio.timeout(60):
            while not heard.done():
                await one.post_group(group(f"g{posted}"))
                posted += 1
                await asyncio.sleep(0.05)
        kind, facts = heard.result()
        await stream.aclose()
    assert (kind, facts["environment"]) == ("group", "sums")


async def test_the_lease_of_a_process_that_was_killed_ends_in_the_other(database: str):
    async with serving(database) as url, RolloutClient(url) as client:
        with ApiProcess(database) as api:
            async with RolloutClient(api.url) as other:
                await other.open_run(run_spec())
                await other.post_group(group("a"))
                assert await other.take_batch(1, 0, lease_seconds=2) is not None
            api.kill()
            taken = await client.take_batch(1, 0, wait_seconds=60)
    assert taken is not None
    assert ids(taken.groups) == ["a"]


class Process:
    """What another process does, step by step: a connection of its own, with a transaction open."""

    def __init__(self, database: str) -> None:
        self.db = PostgresServer(database).connect()
        self.begin()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def begin(self) -> None:
        self.db.begin()
        self.t = Transaction(self.db, read_snapshot(self.db), ROOMY)

    def commit(self) -> None:
        self.t.write_counts()
        self.db.commit(())

    def somebody_waits(self) -> bool:
        return bool(self.db.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))


def parcel(name: str) -> Parcel:
    return Parcel(name, "sums", policy_version=0, scored=2, lost=0, body=encode(group(name)), accepted_at=0.0)


def test_a_group_that_comes_while_another_process_opens_the_first_run_is_in_it(database: str):
    with Process(database) as posting, Process(database) as opening, ThreadPoolExecutor(1) as thread:
        ledger.put_group(posting.t, seal(parcel("a")))
        opened = thread.submit(ledger_runs.open_run, opening.t, run_spec())
        while not opened.done() and not posting.somebody_waits():
            pass
        posting.commit()
        opened.result()
        opening.commit()
        assert posting.db.rows("SELECT run FROM groups") == [("run",)]
        assert read_snapshot(posting.db).total("run").queued == 1


def test_a_batch_that_another_process_takes_back_is_not_filled_up(database: str):
    wanted = TakeBatch(batch_id="batch", groups=2, policy_version=0)
    with Process(database) as returning, Process(database) as filling, ThreadPoolExecutor(1) as thread:
        ledger_runs.open_run(returning.t, run_spec())
        for name in ("a", "b"):
            ledger.put_group(returning.t, seal(parcel(name)))
        assert ledger.take_batch(returning.t, wanted, 0.0) is not None
        returning.commit()
        returning.begin()
        assert ledger.return_batch(returning.t, "batch") == 2
        filled = thread.submit(ledger.take_batch, filling.t, wanted.model_copy(update={"refused": ("a",)}), 0.0)
        while not filled.done() and not returning.somebody_waits():
            pass
        returning.commit()
        with pytest.raises(Conflict, match="expired"):
            filled.result()


async def test_the_queue_goes_on_when_the_database_comes_back(server: PostgresProcess, database: str):
    async with serving(database) as url, RolloutClient(url, retry_seconds=300) as client:
        await client.open_run(run_spec())
        await client.post_group(group("before"))
        server.stop()
        waiting = asyncio.create_task(client.post_group(group("after")))
        await asyncio.to_thread(server.start)
        assert await waiting
        taken = await client.take_batch(2, 0, wait_seconds=60)
    assert taken is not None
    assert ids(taken.groups) == ["before", "after"]


def test_an_address_with_a_password_is_refused_without_repeating_it():
    with pytest.raises(ConfigError, match="PGPASSWORD") as refused:
        PostgresServer("postgresql://me:s3cret@host/name")
    assert "s3cret" not in str(refused.value)


def test_a_server_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match="cannot connect to PostgreSQL"):
        LedgerStore(PostgresServer("postgresql://me@/name?host=/nowhere"), Limits(1, 1))
