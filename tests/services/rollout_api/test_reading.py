"""Looking at the queue: one group, listings, the event stream, forms of a batch, metrics, what is kept."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import zstandard

from core import wire
from core.errors import QueueError
from core.types import ScoredGroup
from core.wire import encode
from services.rollout_api.base import Event, Limits
from services.rollout_api.events import KEPT, EventFeed
from services.rollout_api.messages import BatchReply, GroupFilter, GroupState, TakeBatch
from tests.services.rollout_api.harness import MSGPACK, group, queue, raw, run_spec, serving, update


async def test_a_group_can_be_read_while_it_waits(tmp_path: Path):
    sent = group("with/slash", lost=1)
    async with queue(tmp_path / "q") as client:
        await client.post_group(sent)
        assert await client.group("with/slash") == sent


async def test_a_group_can_be_read_as_json(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        await http.post("/v1/groups", content=encode(group("a")), headers=MSGPACK)
        answer = await http.get("/v1/groups/a", headers={"Accept": "application/json"})
    assert ScoredGroup.model_validate_json(answer.content) == group("a")
    assert answer.headers["x-group-state"] == "queued"


async def test_a_group_that_was_never_posted_is_404(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        with pytest.raises(QueueError, match=r"404 no group 'a'"):
            await client.group("a")


async def test_so_many_finished_groups_as_are_kept_can_be_read(tmp_path: Path):
    async with queue(tmp_path / "q", limits=Limits(1000, 1 << 30, kept_payloads=10)) as client:
        await client.open_run(run_spec())
        await client.post_group(group("a"))
        taken = await client.take_batch(1, 0)
        assert taken is not None
        await client.acknowledge(taken.batch_id, update())
        assert (await client.group("a")).id == "a"


async def test_a_listing_is_filtered_and_newest_first(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        await client.open_run(run_spec(max_staleness=9))
        for number in range(4):
            await client.post_group(group(f"g{number}", policy_version=number))
        await client.post_group(group("other", environment="else", policy_version=9))
        await client.post_group(group("lost", scored=0, lost=1))
        taken = await client.take_batch(1, 3)
        assert taken is not None
        filters = {
            "everything": GroupFilter(),
            "one environment": GroupFilter(environment="else"),
            "one state": GroupFilter(state=GroupState.LEASED),
            "one batch": GroupFilter(batch_id=taken.batch_id),
            "versions": GroupFilter(min_policy_version=2, max_policy_version=3),
        }
        found = {name: [one.id for one in (await client.groups(wanted)).groups] for name, wanted in filters.items()}
    assert found == {
        "everything": ["lost", "other", "g3", "g2", "g1", "g0"],
        "one environment": ["other"],
        "one state": ["g0"],
        "one batch": ["g0"],
        "versions": ["g3", "g2"],
    }


async def test_pages_of_a_listing_follow_each_other_without_gap(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        for number in range(5):
            await client.post_group(group(f"g{number}"))
        seen: list[list[str]] = []
        before = None
        while not seen or before is not None:
            page = await client.groups(GroupFilter(limit=2, before=before))
            before = page.before
            seen.append([one.id for one in page.groups])
    assert seen == [["g4", "g3"], ["g2", "g1"], ["g0"]]


async def lines(answer: httpx.Response, count: int) -> list[str]:
    """So many lines of a stream that say something."""
    found: list[str] = []
    async for line in answer.aiter_lines():
        if line.startswith(("event", "data")):
            found.append(line)
        if len(found) == count:
            break
    return found


async def test_the_stream_tells_what_happens_in_order(tmp_path: Path):
    async with raw(tmp_path / "q") as http, http.stream("GET", "/v1/events?kinds=group,batch,update", timeout=60) as stream:
        await http.post("/v1/run", content=encode(run_spec()), headers=MSGPACK)
        await http.post("/v1/groups", content=encode(group("a")), headers=MSGPACK)
        wanted = encode(TakeBatch(batch_id="b", groups=1, policy_version=0))
        await http.post("/v1/batches", content=wanted, headers=MSGPACK)
        await http.post("/v1/batches/b/ack", content=encode(update()), headers=MSGPACK)
        told = await lines(stream, 8)
    assert told[::2] == ["event: group", "event: batch", "event: batch", "event: update"]
    assert '"id": "a"' in told[1]
    assert '"policy_version": 1' in told[7]


async def test_a_run_hears_only_of_itself_where_it_asks_so(tmp_path: Path):
    async with raw(tmp_path / "q") as http, http.stream("GET", "/v1/events?kinds=run&run=two", timeout=60) as stream:
        for name in ("one", "two"):
            await http.post("/v1/run", content=encode(run_spec(name)), headers=MSGPACK)
        told = await lines(stream, 2)
    assert '"run": "two"' in told[1]


async def test_unknown_kinds_of_events_are_refused(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        answer = await http.get("/v1/events?kinds=groups")
    assert answer.status_code == 422
    assert "known: group, batch" in answer.json()["error"]


def events(count: int) -> list[Event]:
    return [Event("update", "run", {"step": number}) for number in range(count)]


async def read(stream: AsyncIterator[bytes], count: int) -> list[str]:
    return [(await anext(stream)).decode() for _ in range(count)]


async def test_a_follower_goes_on_behind_the_last_event_that_it_has_seen():
    feed = EventFeed()
    feed.add(events(3))
    everything = await read(feed.follow("", lambda event: True), 1)
    stream = feed.follow("", lambda event: True)
    await anext(stream)
    feed.add(events(1))
    last = (await anext(stream)).decode().split("\n")[0].removeprefix("id: ")
    boot, number = last.split("-")
    again = await read(feed.follow(f"{boot}-{int(number) - 2}", lambda event: True), 3)
    assert everything == [": natgym\n\n"]
    assert [one.split("\n")[2] for one in again[1:]] == ['data: {"run": "run", "step": 2}', 'data: {"run": "run", "step": 0}']


async def test_a_follower_that_is_too_slow_is_told_how_much_it_missed():
    feed = EventFeed()
    stream = feed.follow("", lambda event: True)
    await anext(stream)
    feed.add(events(KEPT + 5))
    assert "event: missed" in (missed := (await anext(stream)).decode())
    assert '"events": 5' in missed


@pytest.mark.parametrize("accept", ["application/msgpack", "application/json", "application/zstd"])
@pytest.mark.parametrize("encoding", ["identity", "zstd"])
async def test_a_batch_says_the_same_in_every_form(tmp_path: Path, accept: str, encoding: str):
    sent = [group("a"), group("b", lost=1)]
    async with raw(tmp_path / "q") as http:
        await http.post("/v1/run", content=encode(run_spec()), headers=MSGPACK)
        for one in sent:
            await http.post("/v1/groups", content=encode(one), headers=MSGPACK)
        wanted = encode(TakeBatch(batch_id="b", groups=2, policy_version=0))
        headers = {**MSGPACK, "Accept": accept, "Accept-Encoding": encoding}
        answer = await http.post("/v1/batches", content=wanted, headers=headers)
    body = answer.content
    if accept == "application/zstd":
        with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True) as reader:
            body = reader.read()
    in_json = accept == "application/json"
    reply = BatchReply.model_validate_json(body) if in_json else wire.decode(BatchReply, body)
    assert list(reply.groups) == sent
    assert answer.headers["content-type"] == accept


async def test_metrics_tell_runs_apart(tmp_path: Path):
    async with raw(tmp_path / "q") as http:
        for name, step in (("one", 3), ("two", 5)):
            await http.post("/v1/run", content=encode(run_spec(name, step=step)), headers=MSGPACK)
        text = (await http.get("/metrics")).text.splitlines()
    assert 'natgym_run_step{run="one"} 3' in text
    assert 'natgym_run_step{run="two"} 5' in text


async def test_a_status_can_be_of_any_run_and_names_them_all(tmp_path: Path):
    async with queue(tmp_path / "q") as client:
        for name in ("one", "two"):
            await client.open_run(run_spec(name))
        status = await client.status()
    assert status.run is not None
    assert (status.run.id, [run.id for run in status.runs]) == ("two", ["one", "two"])


async def test_an_orderly_stop_ends_the_streams(tmp_path: Path):
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http, AsyncExitStack() as stack:
        async with serving(tmp_path / "q") as url:
            answer = await stack.enter_async_context(http.stream("GET", f"{url}/v1/events"))
            first = await anext(chunks := answer.aiter_bytes())
        rest = [chunk async for chunk in chunks]  # ends, where a stream that went on would run into the timeout
    assert (first, rest) == (b": natgym\n\n", [])
