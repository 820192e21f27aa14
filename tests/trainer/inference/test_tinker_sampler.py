"""What a Tinker service answers is looked at before anyone learns from it; versions, limits and the end of a sampler."""

import asyncio
import math
from collections.abc import Sequence

import pytest

from core.errors import PolicyError
from core.types import FinishReason
from trainer.engines.tinker_engine import TinkerEngineConfig
from trainer.engines.tinker_service import Order, Sampled
from trainer.inference.base import EngineClosed, GenerationRequest, QueueFull, SamplingParams, UnusableRequest
from trainer.inference.tinker_sampler import TinkerSampler

END = 9
GOOD = Sampled((4, 5, END), (-0.5, -1.0, -0.1), True)


class FakeSnapshot:
    """Weights that answer what they are told to, when the gate is open."""

    def __init__(self, answer: Sampled, gate: asyncio.Event) -> None:
        self._answer, self._gate = answer, gate
        self.orders: list[Order] = []

    async def sample(self, order: Order) -> Sampled:
        self.orders.append(order)
        await self._gate.wait()
        return self._answer


class FakeService:
    url = "http://there"

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class FakeEngine:
    """As much of a TinkerEngine as a sampler needs: a snapshot for each answer, the last one from then on."""

    vocabulary = 10

    def __init__(self, *answers: Sampled, **settings: object) -> None:
        self.config = TinkerEngineConfig.model_validate({"max_length": 8} | settings)
        self.service, self.gate = FakeService(), asyncio.Event()
        self.gate.set()
        self.snapshots = [FakeSnapshot(answer, self.gate) for answer in answers]
        self._taken = 0

    def snapshot(self) -> FakeSnapshot:
        self._taken = min(self._taken + 1, len(self.snapshots))
        return self.snapshots[self._taken - 1]


def letters(token_ids: Sequence[int]) -> str:
    return "".join("abcdefghij"[token] for token in token_ids)


def sampler_of(engine: FakeEngine) -> TinkerSampler:
    return TinkerSampler(engine, letters)  # pyright: ignore[reportArgumentType]


def request(**params: object) -> GenerationRequest:
    settings = {"max_tokens": 4, "stop_token_ids": (END,)} | params
    return GenerationRequest(prompt_ids=(1, 2), params=SamplingParams.model_validate(settings))


async def test_ids_and_logprobs_come_as_they_were_sampled():
    made = await sampler_of(FakeEngine(GOOD)).generate(request())
    assert (made.token_ids, made.logprobs, made.finish_reason) == (GOOD.token_ids, GOOD.logprobs, FinishReason.STOP)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Sampled((), (), False), "0 tokens"),
        (Sampled((1, 2, 3, 4, 5), (-1.0,) * 5, False), "5 tokens"),
        (Sampled((1, 2), (-1.0,), False), "1 logprobs"),
        (Sampled((10,), (-1.0,), False), "beyond the model's 10"),
        (Sampled((1,), (math.nan,), False), "not finite"),
        (Sampled((1, 2), (-1.0, -1.0), True), "none of its stop tokens"),
    ],
)
async def test_an_answer_that_is_none_to_the_question_is_an_error(answer: Sampled, problem: str):
    with pytest.raises(PolicyError, match=problem):
        await sampler_of(FakeEngine(answer)).generate(request())


@pytest.mark.parametrize(("stop", "length"), [(("e",), 1), (("ef",), 2), (("x",), 3)])
async def test_a_stop_text_ends_a_completion_behind_the_token_that_completes_it(stop: tuple[str, ...], length: int):
    made = await sampler_of(FakeEngine(GOOD)).generate(request(stop=stop))
    assert (made.token_ids, made.logprobs) == (GOOD.token_ids[:length], GOOD.logprobs[:length])
    assert made.finish_reason is FinishReason.STOP


async def test_a_completion_is_asked_for_no_longer_than_there_is_room():
    engine = FakeEngine(Sampled((3,), (-1.0,), False))
    made = await sampler_of(engine).generate(request(max_tokens=100))
    assert engine.snapshots[0].orders[0].max_tokens == 6
    assert made.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.1}])
async def test_a_distribution_whose_logprobs_do_not_come_is_refused(settings: dict[str, float]):
    engine = FakeEngine(GOOD)
    with pytest.raises(UnusableRequest, match="logprobs"):
        await sampler_of(engine).generate(request(**settings))
    assert engine.snapshots[0].orders == []


async def test_what_began_before_a_version_ends_with_the_weights_before_it():
    engine = FakeEngine(GOOD, Sampled((7,), (-1.0,), False))
    sampler = sampler_of(engine)
    engine.gate.clear()
    early = asyncio.create_task(sampler.generate(request()))
    while not engine.snapshots[0].orders:
        await asyncio.sleep(0)
    await sampler.publish({}, 1)
    engine.gate.set()
    late = await sampler.generate(request())
    before = await early
    assert [(one.policy_version, one.token_ids) for one in (before, late)] == [(0, GOOD.token_ids), (1, (7,))]


async def test_more_requests_than_there_is_place_for_are_told_to_come_again():
    engine = FakeEngine(GOOD, max_requests=1)
    sampler = sampler_of(engine)
    engine.gate.clear()
    first = asyncio.create_task(sampler.generate(request()))
    while not engine.snapshots[0].orders:
        await asyncio.sleep(0)
    assert not sampler.stats().ready
    with pytest.raises(QueueFull):
        await sampler.generate(request())
    engine.gate.set()
    await first
    stats = sampler.stats()
    assert (stats.requests, stats.rejected, stats.running, stats.generated_tokens) == (1, 1, 0, 3)


async def test_closing_ends_what_is_in_flight_and_the_session():
    engine = FakeEngine(GOOD)
    sampler = sampler_of(engine)
    engine.gate.clear()
    flying = asyncio.create_task(sampler.generate(request()))
    while not engine.snapshots[0].orders:
        await asyncio.sleep(0)
    await sampler.aclose()
    await sampler.aclose()
    for attempt in (flying, sampler.generate(request())):
        with pytest.raises(EngineClosed):
            await attempt
    assert engine.service.closed == 1
