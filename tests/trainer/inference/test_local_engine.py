"""What the engine says about the tokens that it sampled is what a plain forward says."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.errors import PolicyError, TrainingError
from core.types import FinishReason
from tests.trainer.inference.tiny import Reference, some_tokens
from tool_call_parsers.rendering import Renderer
from trainer.inference.base import (
    EngineClosed,
    Generation,
    GenerationRequest,
    QueueFull,
    SamplingParams,
    UnusableRequest,
    VersionSpan,
)
from trainer.inference.decoder import Interrupt, never
from trainer.inference.feed import Feed
from trainer.inference.kv_slab import KVSlab
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig
from trainer.inference.qwen3 import Qwen3
from trainer.weights import DirectPublisher, GivenWeights, WeightSource

EXACT = 1e-5  # float32 sums in another order, over a few hundred terms


def ask(prompt: Sequence[int], session_id: str | None = None, **params: object) -> GenerationRequest:
    settings = SamplingParams.model_validate({"max_tokens": 24, **params})
    return GenerationRequest(prompt_ids=tuple(prompt), params=settings, session_id=session_id)


async def ask_all(engine: LocalEngine, requests: Sequence[GenerationRequest]) -> list[Generation]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(engine.generate(request)) for request in requests]
    return [task.result() for task in running]


def assert_exact(generation: Generation, prompt: Sequence[int], reference: Reference, temperature: float = 1.0) -> None:
    expected = reference.logprobs(prompt, generation.token_ids, temperature)
    torch.testing.assert_close(torch.tensor(generation.logprobs), expected, rtol=0, atol=EXACT)


class CopiedWeights:
    """Gives the whole at once, as engines do whose weights lie in parts."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self._weights = weights

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._weights


async def test_logprobs_of_a_ragged_batch_equal_a_plain_forward(engine: LocalEngine, reference: Reference):
    prompts = [some_tokens(count, seed=count) for count in (1, 3, 17, 40, 41, 90, 150)]
    for prompt, generation in zip(prompts, await ask_all(engine, [ask(prompt) for prompt in prompts]), strict=True):
        assert_exact(generation, prompt, reference)


async def test_more_requests_than_rows_are_all_answered_exactly(engine: LocalEngine, reference: Reference):
    prompts = [some_tokens(20 + index, seed=index) for index in range(20)]
    requests = [ask(prompt, max_tokens=5 + 3 * (index % 5)) for index, prompt in enumerate(prompts)]
    for prompt, generation in zip(prompts, await ask_all(engine, requests), strict=True):
        assert_exact(generation, prompt, reference)


async def test_a_next_turn_computes_only_what_is_new_and_stays_exact(engine: LocalEngine, reference: Reference):
    prompt, session, known = some_tokens(60), "episode", 0
    for turn in range(4):
        generation = await engine.generate(ask(prompt, session))
        assert_exact(generation, prompt, reference)
        assert generation.cached_tokens == known
        known = len(prompt) + len(generation.token_ids) - 1
        prompt = (*prompt, *generation.token_ids, *some_tokens(9, seed=turn))


async def test_a_group_computes_its_prompt_once(engine: LocalEngine, reference: Reference):
    prompt = some_tokens(61)
    generations = await ask_all(engine, [ask(prompt, f"episode-{index}") for index in range(8)])
    assert sorted(generation.cached_tokens for generation in generations) == [0, *[60] * 7]
    for generation in generations:
        assert_exact(generation, prompt, reference)


async def test_tasks_with_a_common_system_prompt_share_it(engine: LocalEngine, reference: Reference):
    system = some_tokens(50)
    prompts = [(*system, 400 + index, *some_tokens(20, seed=index)) for index in range(4)]
    generations = await ask_all(engine, [ask(prompt) for prompt in prompts])
    assert sorted(generation.cached_tokens for generation in generations) == [0, 50, 50, 50]
    for prompt, generation in zip(prompts, generations, strict=True):
        assert_exact(generation, prompt, reference)


async def test_a_long_prompt_is_computed_in_parts(engine: LocalEngine, reference: Reference):
    prompt = some_tokens(400)
    assert_exact(await engine.generate(ask(prompt)), prompt, reference)


async def test_logprobs_are_those_of_the_tempered_distribution(engine: LocalEngine, reference: Reference):
    prompt = some_tokens(30)
    hot, cold = await ask_all(engine, [ask(prompt, temperature=1.7), ask(prompt, temperature=0.4)])
    assert_exact(hot, prompt, reference, temperature=1.7)
    assert_exact(cold, prompt, reference, temperature=0.4)


async def test_temperature_zero_takes_the_likeliest_tokens(engine: LocalEngine, reference: Reference):
    prompt = some_tokens(30)
    generation = await engine.generate(ask(prompt, temperature=0, max_tokens=16))
    assert list(generation.token_ids) == reference.greedy(prompt, 16)
    assert_exact(generation, prompt, reference)


async def test_a_seed_gives_the_same_tokens_in_any_company(engine: LocalEngine):
    alone = await engine.generate(ask(some_tokens(30), seed=7))
    crowd = [ask(some_tokens(30 + index, seed=index), seed=index) for index in range(6)]
    *_, again = await ask_all(engine, [*crowd, ask(some_tokens(30), seed=7)])
    assert again.token_ids == alone.token_ids


async def test_without_a_seed_members_of_a_group_differ(engine: LocalEngine):
    one, two = await ask_all(engine, [ask(some_tokens(30))] * 2)
    assert one.token_ids != two.token_ids


async def test_a_stop_token_ends_the_completion_and_is_part_of_it(engine: LocalEngine, reference: Reference):
    expected = reference.greedy(some_tokens(30), 8)
    stop = expected[5]
    generation = await engine.generate(ask(some_tokens(30), temperature=0, stop_token_ids=(stop,)))
    assert list(generation.token_ids) == expected[: expected.index(stop) + 1]
    assert generation.finish_reason is FinishReason.STOP


async def test_a_stop_text_ends_the_completion(model_dir: Path, reference: Reference):
    renderer = Renderer.from_directory(model_dir)
    expected = reference.greedy(some_tokens(30), 12)
    engine = LocalEngine.load(model_dir, decode=renderer.decode)
    stop = renderer.decode(expected[6:8])
    generation = await engine.generate(ask(some_tokens(30), temperature=0, stop=(stop,), max_tokens=12))
    await engine.aclose()
    assert generation.finish_reason is FinishReason.STOP
    assert stop in renderer.decode(generation.token_ids)
    assert stop not in renderer.decode(generation.token_ids[:-1])


async def test_a_completion_ends_where_the_context_does(engine: LocalEngine):
    generation = await engine.generate(ask(some_tokens(500), max_tokens=100))
    assert len(generation.token_ids) == 12
    assert generation.finish_reason is FinishReason.LENGTH


async def test_published_weights_answer_the_next_request_exactly(
    engine: LocalEngine, other_model_dir: Path, other_reference: Reference
):
    prompt = some_tokens(60)
    first = await engine.generate(ask(prompt, "episode"))
    await engine.publish(load_file(other_model_dir / "model.safetensors"), 1)
    prompt = (*prompt, *first.token_ids)
    second = await engine.generate(ask(prompt, "episode"))
    assert_exact(second, prompt, other_reference)
    assert (second.cached_tokens, second.spans) == (0, (VersionSpan(1, 0, 24),))


@pytest.mark.parametrize("kind", [GivenWeights, CopiedWeights])
async def test_weights_are_taken_from_who_has_them(
    engine: LocalEngine,
    kind: Callable[[dict[str, torch.Tensor]], WeightSource],
    other_model_dir: Path,
    other_reference: Reference,
):
    assert isinstance(engine, DirectPublisher)
    await engine.publish_from(kind(load_file(other_model_dir / "model.safetensors")), 1)
    generation = await engine.generate(ask(some_tokens(20)))
    assert_exact(generation, some_tokens(20), other_reference)
    assert generation.policy_version == 1


async def test_a_publish_drops_nothing_that_is_being_decoded(engine: LocalEngine, other_model_dir: Path):
    weights = load_file(other_model_dir / "model.safetensors")
    chunks = engine.stream(ask(some_tokens(30), max_tokens=400))
    others = [asyncio.create_task(engine.generate(ask(some_tokens(30), max_tokens=400))) for _ in range(5)]
    await anext(chunks)
    await engine.publish(weights, 1)
    versions = [chunk.policy_version async for chunk in chunks]
    generations = await asyncio.gather(*others)
    assert versions == sorted(versions)
    assert versions[-1] == 1
    for generation in generations:
        assert len(generation.token_ids) == 400
        assert generation.spans[-1].end == 400
        assert [span.version for span in generation.spans] in ([0, 1], [1])


async def test_what_was_decoded_across_a_publish_is_reused_by_nobody(
    engine: LocalEngine, other_model_dir: Path, other_reference: Reference
):
    chunks = engine.stream(ask(some_tokens(30), "episode", max_tokens=200))
    tokens = list((await anext(chunks)).token_ids)
    await engine.publish(load_file(other_model_dir / "model.safetensors"), 1)
    async for chunk in chunks:
        tokens += chunk.token_ids
    prompt = (*some_tokens(30), *tokens)
    generation = await engine.generate(ask(prompt, "episode"))
    assert generation.cached_tokens == 0
    assert_exact(generation, prompt, other_reference)


async def test_weights_of_another_shape_are_refused_and_change_nothing(
    engine: LocalEngine, other_model_dir: Path, reference: Reference
):
    weights = load_file(other_model_dir / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(7)
    with pytest.raises(TrainingError, match=r"model\.norm\.weight: expected shape \(32,\), found \(7,\)"):
        await engine.publish(weights, 1)
    assert_exact(await engine.generate(ask(some_tokens(20))), some_tokens(20), reference)


async def test_weights_with_an_unknown_name_are_refused(engine: LocalEngine, other_model_dir: Path):
    weights = load_file(other_model_dir / "model.safetensors")
    weights["model.layers.0.lora_A"] = torch.zeros(7)
    with pytest.raises(TrainingError, match="lora_A"):
        await engine.publish(weights, 1)


async def test_weights_that_diverged_fail_their_requests_and_leave_no_trace(
    engine: LocalEngine, model_dir: Path, reference: Reference
):
    weights = load_file(model_dir / "model.safetensors")
    broken = {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}
    await engine.publish(broken, 1)
    answers = await asyncio.gather(*(engine.generate(ask(some_tokens(90))) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [PolicyError] * 3
    await engine.publish(weights, 2)
    assert_exact(await engine.generate(ask(some_tokens(20))), some_tokens(20), reference)


async def test_a_stream_gives_what_generate_gives(engine: LocalEngine):
    whole = await engine.generate(ask(some_tokens(30), seed=3))
    chunks = [chunk async for chunk in engine.stream(ask(some_tokens(30), seed=3))]
    assert tuple(token for chunk in chunks for token in chunk.token_ids) == whole.token_ids
    assert chunks[-1].finish_reason is whole.finish_reason


async def test_a_cancelled_request_frees_its_place(engine: LocalEngine):
    tasks = [asyncio.create_task(engine.generate(ask(some_tokens(30), max_tokens=450))) for _ in range(20)]
    chunks = engine.stream(ask(some_tokens(5)))
    await asyncio.sleep(0)  # every task has asked
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len([chunk async for chunk in chunks]) > 0
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.cancelled) == (0, 0, 20)


async def test_a_request_beyond_the_queue_is_refused(model_dir: Path):
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=1, max_waiting=2))
    tasks = [asyncio.create_task(engine.generate(ask(some_tokens(9), max_tokens=450))) for _ in range(9)]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await engine.aclose()
    assert {type(answer) for answer in answers} == {Generation, QueueFull}
    assert engine.stats().rejected == sum(isinstance(answer, QueueFull) for answer in answers)


async def test_closing_ends_what_is_in_flight(model_dir: Path):
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=1))
    tasks = [asyncio.create_task(engine.generate(ask(some_tokens(9), max_tokens=450))) for _ in range(3)]
    await asyncio.sleep(0)
    await engine.aclose()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(answer) for answer in answers} == {EngineClosed}
    with pytest.raises(EngineClosed):
        await engine.generate(ask(some_tokens(9)))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [(some_tokens(512), "the prompt has 512 tokens; at most 511"), ((99999,), "token id 99999 is outside the vocabulary")],
)
async def test_a_prompt_that_cannot_be_answered_is_refused(engine: LocalEngine, prompt: tuple[int, ...], message: str):
    with pytest.raises(UnusableRequest, match=message):
        await engine.generate(ask(prompt))


async def test_a_stop_text_without_a_tokenizer_is_refused(engine: LocalEngine):
    with pytest.raises(UnusableRequest, match="tokenizer"):
        await engine.generate(ask((1, 2), stop=("x",)))


class BreaksOnce(Qwen3):
    """Runs out of memory in its first forward pass."""

    broken = False

    def forward(self, feed: Feed, slab: KVSlab, interrupt: Interrupt = never) -> torch.Tensor:
        if not self.broken:
            self.broken = True
            raise MemoryError("no room")
        return super().forward(feed, slab, interrupt)


async def test_a_decoder_that_broke_fails_its_requests_and_goes_on(model_dir: Path, reference: Reference):
    engine = LocalEngine(BreaksOnce.load(model_dir))
    with pytest.raises(PolicyError, match="MemoryError: no room"):
        await engine.generate(ask(some_tokens(20)))
    generation = await engine.generate(ask(some_tokens(20)))
    await engine.aclose()
    assert_exact(generation, some_tokens(20), reference)
