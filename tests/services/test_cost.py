"""What a command costs: tokens that the server counted or that came as ids, money, and the time that is left."""

import argparse
import asyncio
import json
from pathlib import Path

from core.types import Message, Role
from environments.metered import Meter, MeteredPolicy
from environments.policy import Completion, CompletionRequest, PolicyConfig, PolicyKind, Usage, open_policy
from environments.resampling import resampled
from services.commands.cost import Cost
from services.commands.counter import Counter
from tests.environments.inference_server import chatted, inference_server
from tests.fakes import FakePolicy, Sums
from tests.services.small_policy import natgym

ASKED = CompletionRequest("e", Sums().task(0))


class Answers(FakePolicy):
    """Answers one completion again and again."""

    def __init__(self, completion: Completion) -> None:
        super().__init__([])
        self._completion = completion

    async def complete(self, request: CompletionRequest) -> Completion:
        return self._completion


def prices(**given: float | None) -> Cost:
    return Cost(argparse.Namespace(**{"prompt_price": None, "completion_price": None, **given}))


async def spent(cost: Cost, completion: Completion, times: int) -> None:
    policy = cost.counting(lambda environment: Answers(completion))(Sums())
    for _ in range(times):
        await policy.complete(ASKED)


async def test_what_the_server_counts_wins_over_the_ids():
    message = (await FakePolicy(["x"]).complete(ASKED)).message
    ids = Completion(message=message, prompt_ids=(1, 2, 3), completion_ids=(4,), logprobs=(0.0,))
    meter = Meter()
    await MeteredPolicy(Answers(ids), meter).complete(ASKED)
    assert meter.used == Usage(3, 1)
    await MeteredPolicy(Answers(Completion(message=message, usage=Usage(100, 20))), meter).complete(ASKED)
    assert meter.used == Usage(103, 21)


async def test_what_was_rolled_back_was_paid_for():
    silent = Completion(message=Message(role=Role.ASSISTANT), usage=Usage(10, 2))
    meter = Meter()
    await MeteredPolicy(resampled(Answers(silent), 2), meter).complete(ASKED)
    assert meter.used == Usage(30, 6)


async def test_a_price_of_a_million_tokens_gives_money():
    cost = prices(prompt_price=2.0, completion_price=10.0)
    message = (await FakePolicy(["x"]).complete(ASKED)).message
    await spent(cost, Completion(message=message, usage=Usage(1000, 100)), 3)
    assert cost.line() == "3,000 + 300 tokens   cost 0.0090"
    assert cost.facts() == {"prompt_tokens": 3000, "completion_tokens": 300, "cost": 0.009}
    assert prices().line() == ""


async def test_the_progress_tells_how_busy_the_server_is_kept():
    policy = prices()
    opened = policy.counting(lambda environment: open_policy(PolicyConfig(kind=PolicyKind.SERVER, max_concurrency=7)))(Sums())
    assert policy.now() == "0 of 7 requests at once"
    await opened.aclose()


def test_the_line_tells_rate_cost_and_the_time_that_is_left():
    times = iter([0.0, 10.0])
    counter = Counter("groups", 100, lambda: "7 tokens", lambda: next(times))
    counter.begin_at(40)
    for _ in range(20):
        counter.add()
    assert counter.line() == "60 of 100 groups   2.0/s   7 tokens   20 s left"


async def test_process_tells_what_a_server_says_that_it_cost(tmp_path: Path):
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}
    replies = [chatted({"content": "nretnal"}, usage=usage)] * 4
    async with inference_server(*replies) as server:
        told = ["--groups", "2", "--group-size", "2", "--openai.base_url", f"{server.url}/v1", "--openai.model_name", "m"]
        prices = ["--prompt-price", "1", "--completion-price", "2", "--json"]
        done = await asyncio.to_thread(natgym, "process", "reverse_text", "--out", str(tmp_path / "f.jsonl"), *told, *prices)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["prompt_tokens"], found["completion_tokens"]) == (4, 120, 20)
    assert found["cost"] == 160e-6
