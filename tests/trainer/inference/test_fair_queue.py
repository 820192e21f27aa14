"""Clients that wait take turns, and one alone cannot fill the queue."""

import asyncio
from pathlib import Path

import pytest

from tests.trainer.inference.serving import served
from tests.trainer.inference.tiny import some_tokens
from trainer.inference.base import ClientQueueFull, GenerationRequest, SamplingParams
from trainer.inference.completion import Completion
from trainer.inference.fair_queue import REMEMBERED_CLIENTS, FairQueue
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig


def waiting(client: str | None) -> Completion:
    return Completion(GenerationRequest(prompt_ids=(1,), client=client), 0, 16, None)


def order(queue: FairQueue) -> str:
    return "".join(str(completion.client) for completion in queue)


def filled(clients: str) -> FairQueue:
    queue = FairQueue()
    for client in clients:
        queue.add(waiting(client))
    return queue


@pytest.mark.parametrize(("came", "served"), [("aaab", "abaa"), ("aaabbb", "ababab"), ("aabbc", "abcab"), ("aaa", "aaa")])
def test_clients_take_turns(came: str, served: str):
    assert order(filled(came)) == served


def test_who_comes_late_does_not_wait_for_all_who_were_there():
    queue = filled("aaaa")
    queue.take(set(list(queue)[:2]))
    queue.add(waiting("b"))
    assert order(queue) == "baa"


def test_who_was_away_saves_up_no_turns():
    queue = filled("aaaaaa")
    queue.take(set(list(queue)[:5]))
    for client in "bbb":
        queue.add(waiting(client))
    assert order(queue) == "babb"  # one turn now, no five for the time before


def test_what_is_removed_is_gone_and_the_rest_keeps_its_order():
    queue = filled("aabb")
    queue.remove({next(iter(queue))})
    assert (order(queue), len(queue)) == ("bab", 3)


def test_clients_that_are_gone_are_forgotten():
    queue = FairQueue()
    for number in range(3 * REMEMBERED_CLIENTS):
        completion = waiting(f"client-{number}")
        queue.add(completion)
        queue.take({completion})
    assert len(queue._turns) <= REMEMBERED_CLIENTS + 1


async def test_a_small_client_is_served_before_the_rest_of_a_flood(model_dir: Path):
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=2, max_waiting=64))
    ended: list[str] = []

    async def one(client: str, seed: int) -> None:
        params = SamplingParams(max_tokens=20)
        await engine.generate(GenerationRequest(prompt_ids=some_tokens(20, seed), params=params, client=client))
        ended.append(client)

    flood = [asyncio.create_task(one("flood", seed)) for seed in range(30)]
    await asyncio.sleep(0)  # every one of the flood has asked
    await asyncio.gather(*flood, *(one("small", 100 + seed) for seed in range(3)))
    await engine.aclose()
    assert max(index for index, client in enumerate(ended) if client == "small") < 20  # of 33; last but for the turns


async def test_one_client_may_not_fill_the_queue(model_dir: Path):
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=1, max_waiting=8))
    body = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
    async with served(engine, model_dir) as client:
        flood = [asyncio.create_task(client.post("/generate", json={**body, "user": "flood"})) for _ in range(20)]
        async with asyncio.timeout(60):
            while engine.stats().rejected < 20 - 8:
                await asyncio.sleep(0.001)
        other = await client.post("/generate", json={**body, "user": "small", "sampling_params": {"max_new_tokens": 2}})
        answers = await asyncio.gather(*flood)
    await engine.aclose()
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert "client 'flood'" in refused[0].json()["error"]["message"]
    assert other.status_code == 200


async def test_a_refused_client_may_come_back(model_dir: Path):
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=1, max_waiting=4))
    request = GenerationRequest(prompt_ids=(5, 6), params=SamplingParams(max_tokens=8), client="a")
    for _ in range(2):
        answers = await asyncio.gather(*(engine.generate(request) for _ in range(12)), return_exceptions=True)
        assert {type(answer) for answer in answers if isinstance(answer, Exception)} == {ClientQueueFull}
    await engine.aclose()
