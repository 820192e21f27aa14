"""A step that is left for new weights and done again with them: as if they had come before it."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from math import isfinite
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from tests.trainer.inference.tiny import Reference, some_tokens
from trainer.inference.base import Generation, GenerationRequest, SamplingParams
from trainer.inference.completion import Completion
from trainer.inference.decoder import Decoder, Interrupt, never
from trainer.inference.feed import Feed
from trainer.inference.kv_slab import KVSlab
from trainer.inference.loading import exact_decoder
from trainer.inference.local_engine import LocalEngine
from trainer.inference.qwen3 import Qwen3
from trainer.inference.scheduler import FIRST_ROWS, Room, Scheduler

ROOM = Room(max_batch=16, max_length=256, prefill_tokens=64, cache_tokens=1024)
LAYERS = 2
WAIT_SECONDS = 60
EXACT = 1e-5  # float32 sums in another order, over a few hundred terms
Two = tuple[Callable[[], Decoder], dict[str, torch.Tensor]]
"""What makes a decoder, and other weights for it."""


def llama(seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=411,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(params=["our own", "of transformers"])
def two(request: pytest.FixtureRequest, model_dir: Path, other_model_dir: Path) -> Two:
    if request.param == "our own":
        return lambda: Qwen3.load(model_dir), load_file(other_model_dir / "model.safetensors")
    return lambda: exact_decoder(llama(0)), llama(1).state_dict()


def at(number: int) -> Interrupt:
    """Says yes once: when it is asked for that time, from 0."""
    asked = count()
    return lambda: next(asked) == number


def submitted(scheduler: Scheduler, lengths: Sequence[int], new: int = 12) -> list[Completion]:
    params = SamplingParams(max_tokens=new)
    prompts = [some_tokens(length, seed) for seed, length in enumerate(lengths)]
    batch = [
        Completion(GenerationRequest(prompt_ids=prompt, params=params), seed, ROOM.max_length, None)
        for seed, prompt in enumerate(prompts)
    ]
    for one in batch:
        scheduler.submit(one)
    return batch


def finished(scheduler: Scheduler, batch: Sequence[Completion]) -> list[Generation]:
    while not scheduler.idle:
        scheduler.step()
    return [one.generation() for one in batch]


@torch.inference_mode()
@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_decode_step_done_again_is_one_with_the_new_weights_alone(two: Two, layer: int):
    made, weights = two

    def across_a_publication(*, left: bool) -> list[Generation]:
        scheduler = Scheduler(made(), ROOM)
        batch = submitted(scheduler, (20, 7))
        for _ in range(3):
            scheduler.step()
        if left:
            assert scheduler.step(at(layer)) == []
        scheduler.swap(weights, 1)
        return finished(scheduler, batch)

    generations = across_a_publication(left=True)
    assert generations == across_a_publication(left=False)
    assert [[span.version for span in one.spans] for one in generations] == [[0, 1], [0, 1]]


@torch.inference_mode()
@pytest.mark.parametrize(("lengths", "asked"), [((20, 7), 1), ((150,), LAYERS + 1)], ids=["together", "in parts"])
def test_prompts_whose_computation_was_left_are_computed_once_with_the_new_weights(
    two: Two, lengths: tuple[int, ...], asked: int
):
    made, weights = two

    def after_a_publication(*, left: bool) -> tuple[list[Generation], int]:
        scheduler = Scheduler(made(), ROOM)
        batch = submitted(scheduler, lengths)
        if left:
            assert scheduler.step(at(asked)) == []
        scheduler.swap(weights, 1)
        return finished(scheduler, batch), scheduler.counters.prompt_tokens

    assert after_a_publication(left=True) == after_a_publication(left=False)


@torch.inference_mode()
def test_a_prompt_shared_with_a_kept_turn_is_computed_anew_with_the_new_weights(two: Two):
    made, weights = two
    scheduler = Scheduler(made(), ROOM)
    finished(scheduler, submitted(scheduler, (40,)))
    again = submitted(scheduler, (40,))
    assert scheduler.step(at(1)) == []
    scheduler.swap(weights, 1)
    fresh = Scheduler(made(), ROOM)
    fresh.swap(weights, 1)
    assert finished(scheduler, again) == finished(fresh, submitted(fresh, (40,)))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("lengths", "steps", "asked"),
    [((30, 5), 1, 1), ((30, 5), 0, 1), ((150,), 0, LAYERS + 1)],
    ids=["tokens", "prompts", "parts"],
)
def test_weights_that_diverged_leave_nothing_in_a_step_that_was_left(
    two: Two, lengths: tuple[int, ...], steps: int, asked: int
):
    made, weights = two
    scheduler = Scheduler(made(), ROOM)
    before = submitted(scheduler, lengths, new=100)
    for _ in range(steps):
        scheduler.step()
    scheduler.swap({name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}, 1)
    assert scheduler.step(at(asked)) == []
    for one in before:
        scheduler.cancel(one)
    scheduler.swap(weights, 2)
    # rows of all lengths: a number that is not one would reach who looks at a place behind its own row's end
    generations = finished(scheduler, submitted(scheduler, (9, 50, 3, 31, 30)))
    assert all(isfinite(logprob) for one in generations for logprob in one.logprobs)


@torch.inference_mode()
def test_publications_without_end_hold_up_every_other_step_at_most(two: Two):
    scheduler = Scheduler(two[0](), ROOM)
    (one,) = submitted(scheduler, (20,), new=5)
    steps = 0
    while not scheduler.idle:
        scheduler.step(lambda: True)
        steps += 1
    assert (len(one.logprobs), steps) == (5, 2 * 4)  # the first step samples twice: after the prompt, and once more
    assert scheduler.counters.interrupted_steps == 4


@torch.inference_mode()
def test_the_first_step_after_a_publication_is_a_small_one(two: Two):
    made, weights = two
    scheduler = Scheduler(made(), ROOM)
    batch = submitted(scheduler, [10] * 16)
    while any(not one.logprobs for one in batch):
        scheduler.step()
    scheduler.swap(weights, 1)
    assert [len(scheduler.step()) for _ in range(2)] == [FIRST_ROWS, 16]


class Waits(Qwen3):
    """Its fifth step is not begun before a publication waits for it."""

    steps = 0

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)  # pyright: ignore[reportArgumentType]
        self.begun = Event()

    def forward(self, feed: Feed, slab: KVSlab, interrupt: Interrupt = never) -> torch.Tensor:
        self.steps += 1
        if self.steps == 5:
            self.begun.set()
            pause = Event()
            while not interrupt():
                pause.wait(0.001)
        return super().forward(feed, slab, interrupt)


async def test_a_publication_leaves_the_step_that_is_being_computed(
    model_dir: Path, other_model_dir: Path, reference: Reference
):
    model = Waits.load(model_dir)
    engine = LocalEngine(model)
    prompt = some_tokens(20)
    asked = [asyncio.create_task(engine.generate(GenerationRequest(prompt_ids=prompt))) for _ in range(3)]
    assert await asyncio.to_thread(model.begun.wait, WAIT_SECONDS)
    async with asyncio.timeout(WAIT_SECONDS):
        await engine.publish(load_file(other_model_dir / "model.safetensors"), 1)
        generations = await asyncio.gather(*asked)
    stats = engine.stats()
    await engine.aclose()
    assert (stats.interrupted_steps, stats.publishes, stats.failed, stats.cancelled) == (1, 1, 0, 0)
    for one in generations:
        old, new = one.spans
        assert (old.version, new.version, new.end) == (0, 1, 256)
        torch.testing.assert_close(
            torch.tensor(one.logprobs[: old.end]), reference.logprobs(prompt, one.token_ids)[: old.end], rtol=0, atol=EXACT
        )
