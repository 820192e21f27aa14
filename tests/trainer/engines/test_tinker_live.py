"""The tinker engine against a real server that others wrote: skyrl with JAX, under its own interpreter.

One server for all tests, because its first calls are compiled; for the same reason all ask for as many tokens and name
one stop token, and groups have as many rows as the server computes at once.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from core.errors import PolicyError, TrainingError, UnknownName
from core.types import Message, Role, ScoredGroup, Turn, Update
from services.trainer_server.config import TrainerServerConfig
from services.trainer_server.server import Trainer
from tests.tool_call_parsers.tiny_model import KEEPS_THINKING, tiny_tokenizer, write_model
from tests.trainer.engines.tinker_server import ROWS, Wire, needs_tinker_server, tinker_server
from tests.trainer.toy import group, scored
from tool_call_parsers.hermes import HermesParser
from tool_call_parsers.rendering import Renderer
from trainer.algorithms.base import AdamParams, Algorithm
from trainer.algorithms.cispo import CISPO
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.algorithms.gspo import GSPO, GSPOConfig
from trainer.algorithms.reinforce import Reinforce
from trainer.batch import Batch, collate
from trainer.checkpoints import CheckpointConfig, CheckpointStore
from trainer.engines.tinker_engine import TinkerEngine, TinkerEngineConfig
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.inference.base import Generation, GenerationRequest, SamplingParams, UnusableRequest
from trainer.inference.openai_server import create_app
from trainer.inference.tinker_sampler import TinkerSampler
from trainer.learner import Learner
from trainer.loop import LoopConfig, Mode, TakenBatch, TrainLoop
from trainer.metrics import StepRecord
from trainer.samples import build_samples

pytestmark = [
    needs_tinker_server,
    pytest.mark.slow,
    # the SDK leaves its first connection to the collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KEY = "tml-for-a-server-that-takes-any"
PATIENT = 900.0  # a function is compiled in seconds, but the cores may be busy
GROUPS, TOKENS, PROMPT = 4, 4, (20, 21, 22)
LOW_IDS = 64  # of some 500: what the toy task pays for
STILL = AdamParams(lr=0.0)
EXACT = 1e-3  # issue 8: of a sampler and a trainer in float32
Opened = Callable[..., "TinkerEngine"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tinker-model")
    write_model(directory, KEEPS_THINKING)
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=tiny_tokenizer().get_vocab_size(),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        # with tied embeddings of the usual size an adapter moves no logit by more than one
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    made = Qwen3ForCausalLM(shape)
    # what the low ids have in common, or sixteen numbers could not tell them from the others
    made.get_input_embeddings().weight.data[:LOW_IDS, 0] += 1.0
    made.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def renderer(model: Path) -> Renderer:
    return Renderer.from_directory(model)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tinker_server(model, tmp_path_factory.mktemp("tinker-server")) as url:
        yield url


@pytest.fixture
def opened(model: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Opens engines, and closes their sessions at the end."""
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    monkeypatch.setenv("TINKER_TELEMETRY", "0")
    engines: list[TinkerEngine] = []

    def open_engine(**changes: object) -> TinkerEngine:
        settings = {"base_url": server, "rank": 8, "max_length": 48, "mean_losses": True, "call_seconds": PATIENT} | changes
        engines.append(TinkerEngine(model, TinkerEngineConfig.model_validate(settings)))
        return engines[-1]

    yield open_engine
    for engine in engines:
        engine.service.close()
    engines.clear()
    gc.collect()


def ask(renderer: Renderer) -> GenerationRequest:
    params = SamplingParams(max_tokens=TOKENS, stop_token_ids=renderer.eos_ids[:1])
    return GenerationRequest(prompt_ids=PROMPT, params=params)


def turn_of(made: Generation) -> Turn:
    message = Message(role=Role.ASSISTANT)
    ids, logprobs = made.token_ids, made.logprobs
    version = made.policy_version
    return Turn(prompt_ids=PROMPT, completion_ids=ids, logprobs=logprobs, message=message, policy_version=version)


async def sampled_group(sampler: TinkerSampler, renderer: Renderer, name: str) -> ScoredGroup:
    """The reward is the share of low ids; were all alike, the first would be the best."""
    made = await asyncio.gather(*(sampler.generate(ask(renderer)) for _ in range(ROWS)))
    rewards = [sum(token < LOW_IDS for token in one.token_ids) / len(one.token_ids) for one in made]
    if len(set(rewards)) == 1:
        rewards[0] += 0.5
    rows = enumerate(zip(made, rewards, strict=True))
    return group(name, [scored(f"{name}-{at}", reward, [turn_of(one)]) for at, (one, reward) in rows])


def batch_of(groups: Sequence[ScoredGroup], algorithm: Algorithm) -> Batch:
    samples = build_samples(groups, algorithm.advantages).samples
    return algorithm.prepare(collate(samples), samples, None)


class Source:
    """Samples its batches when they are asked for: source of a loop whose publisher is the sampler."""

    def __init__(self, sampler: TinkerSampler, renderer: Renderer) -> None:
        self._sampler, self._renderer = sampler, renderer
        self.acknowledged: list[Update] = []
        self.before_training = lambda: None

    async def take_batch(self, policy_version: int) -> TakenBatch:
        names = [f"{policy_version}-{number}" for number in range(GROUPS)]
        groups = [await sampled_group(self._sampler, self._renderer, name) for name in names]
        self.before_training()
        return TakenBatch(f"batch-{policy_version}", groups)

    async def refill(self, batch_id: str, refused: Sequence[str], policy_version: int) -> TakenBatch | None:
        raise AssertionError("every group teaches something")

    async def acknowledge(self, batch_id: str, update: Update) -> None:
        self.acknowledged.append(update)


def train_loop(engine: TinkerEngine, out: Path, records: list[StepRecord], steps: int) -> TrainLoop:
    # high as learning rates of adapters are
    learner = Learner(engine, GRPO(GRPOConfig(lr=2e-2)))
    config = LoopConfig(max_steps=steps, mode=Mode.SYNC)
    return TrainLoop(config, learner, CheckpointStore(out, CheckpointConfig(every=1)), records.append)


async def test_logprobs_of_sampler_trainer_and_the_torch_engine_are_the_same(model: Path, opened: Opened, renderer: Renderer):
    engine = opened()
    sampler = TinkerSampler(engine, renderer.decode)
    batch = batch_of([await sampled_group(sampler, renderer, "g")], GRPO())
    mask = batch.loss_mask
    assert mask.sum() > ROWS
    torch.testing.assert_close(engine.logprobs(batch)[mask], batch.logprobs[mask], atol=EXACT, rtol=0.0)
    # a new adapter adds nothing, so the model is the one that lies here
    ours = TorchEngine(model, TorchEngineConfig()).logprobs(batch)
    torch.testing.assert_close(batch.logprobs[mask], ours[mask], atol=EXACT, rtol=0.0)


async def test_a_step_of_importance_sampling_makes_what_paid_likelier(opened: Opened, renderer: Renderer):
    engine = opened()
    sampler = TinkerSampler(engine, renderer.decode)
    algorithm = Reinforce()
    batch = batch_of([await sampled_group(sampler, renderer, "g")], algorithm)
    before = engine.logprobs(batch)
    measured, norm = engine.update(batch, algorithm.loss, batch.tokens, AdamParams(lr=1e-2))
    assert measured.maxima["dlogp"] < EXACT
    assert norm > 0
    gained = ((engine.logprobs(batch) - before) * batch.advantages).sum()
    assert gained > 0.1
    # published, the step is what is sampled by
    await sampler.publish({}, 1)
    made = await sampler.generate(ask(renderer))
    assert made.policy_version == sampler.policy_version == 1
    again = batch_of([await sampled_group(sampler, renderer, "h")], algorithm)
    assert (engine.logprobs(again) - again.logprobs)[again.loss_mask].abs().max() < EXACT


async def test_our_own_formula_has_the_services_gradient_and_takes_what_it_does_not_know(opened: Opened, renderer: Renderer):
    engine = opened()
    batch = batch_of([await sampled_group(TinkerSampler(engine, renderer.decode), renderer, "g")], CISPO())
    there = engine.update(batch, CISPO().loss, batch.tokens, STILL)[1]
    here = engine.update(batch, lambda *parts: CISPO().loss(*parts), batch.tokens, STILL)[1]
    assert here == pytest.approx(there, rel=1e-3)  # float32, summed in another order
    # rows add up, though this server takes their mean
    twice = batch.rows(torch.arange(2 * ROWS) % ROWS)
    assert engine.update(twice, CISPO().loss, batch.tokens, STILL)[1] == pytest.approx(2 * there, rel=1e-3)
    algorithm = GSPO(GSPOConfig(lr=1e-2))
    before = engine.logprobs(batch)
    engine.update(batch, algorithm.loss, batch.tokens, AdamParams(lr=1e-2))
    assert ((engine.logprobs(batch) - before) * batch.advantages).sum() > 0


async def test_grpo_learns_the_toy_task_and_a_resumed_run_goes_on(opened: Opened, renderer: Renderer, tmp_path: Path):
    records: list[StepRecord] = []
    first = opened()
    sampler = TinkerSampler(first, renderer.decode)
    loop = train_loop(first, tmp_path, records, steps=10)
    source = Source(sampler, renderer)
    progress = await loop.run(source, sampler)
    rewards = [record.reward_mean or 0.0 for record in records]
    assert sum(rewards[-2:]) / 2 > rewards[0] + 0.4, rewards
    assert len(source.acknowledged) == progress.step == progress.policy_version == 10
    assert max(record.dlogp_max for record in records) < EXACT  # what was trained on is what was sampled

    batch = batch_of([await sampled_group(sampler, renderer, "g")], GRPO())
    second = opened()
    resumed = train_loop(second, tmp_path, records, steps=11)
    assert resumed.progress == progress
    torch.testing.assert_close(second.logprobs(batch), first.logprobs(batch), atol=1e-5, rtol=0.0)
    # the same next step: the optimiser's moments came along
    for engine in (first, second):
        engine.update(batch, GRPO().loss, batch.tokens, AdamParams(lr=1e-2))
    torch.testing.assert_close(second.logprobs(batch), first.logprobs(batch), atol=1e-4, rtol=0.0)


async def test_a_server_that_dies_ends_the_step_with_its_name_and_loses_no_group(
    opened: Opened, server: str, renderer: Renderer, tmp_path: Path
):
    wire = Wire(server)
    records: list[StepRecord] = []
    engine = opened(base_url=wire.url)
    sampler = TinkerSampler(engine, renderer.decode)
    loop, source = train_loop(engine, tmp_path, records, steps=2), Source(sampler, renderer)

    def cut() -> None:
        engine.service.seconds = 2.0  # from here on nobody answers any more
        wire.cut()

    source.before_training = cut
    with pytest.raises(TrainingError, match=r"no ppo gradient within 2 seconds; the server is gone"):
        await loop.run(source, sampler)
    assert (source.acknowledged, records, loop.progress.step) == ([], [], 0)
    assert not any(tmp_path.glob("step-*"))
    with pytest.raises(TrainingError, match="unknown state"):
        engine.optim_step(STILL)
    engine.close()
    await nothing_is_sent_any_more()


async def nothing_is_sent_any_more() -> None:
    """The SDK has one event loop for the life of the process; a call that is left there is sent again for ever."""
    from tinker.lib.internal_client_holder import _internal_client_holder_thread_singleton

    async with asyncio.timeout(60):
        while asyncio.all_tasks(_internal_client_holder_thread_singleton.get_loop()):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def endpoint(sampler: TinkerSampler, renderer: Renderer, model: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(sampler, renderer, HermesParser(), model_id="policy", model_path=str(model))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        yield client


async def test_the_endpoint_serves_what_the_service_samples(model: Path, opened: Opened, renderer: Renderer):
    sampler = TinkerSampler(opened(), renderer.decode, version=3)
    chat: dict[str, object] = {
        "messages": [{"role": "user", "content": "x"}],
        "max_tokens": TOKENS,
        "logprobs": True,
        "return_token_ids": True,
    }
    generate: dict[str, object] = {
        "input_ids": list(PROMPT),
        "sampling_params": {"max_new_tokens": TOKENS, "stop_token_ids": list(renderer.eos_ids[:1])},
        "return_logprob": True,
    }
    async with endpoint(sampler, renderer, model) as client:
        said = (await client.post("/v1/chat/completions", json=chat, timeout=PATIENT)).json()["choices"][0]
        made = (await client.post("/generate", json=generate, timeout=PATIENT)).json()
        refused = await client.post("/v1/chat/completions", json=chat | {"temperature": 0.5})
    assert 0 < len(said["token_ids"]) == len(said["logprobs"]["content"]) <= TOKENS
    assert made["meta_info"]["weight_version"] == "3"
    assert [entry[1] for entry in made["meta_info"]["output_token_logprobs"]] == made["output_ids"]
    assert (refused.status_code, "temperature" in refused.text) == (400, True)


async def test_a_run_with_this_engine_is_served_by_the_service(opened: Opened, server: str, model: Path, tmp_path: Path):
    engine = {"name": "tinker", "base_url": server, "rank": 8, "max_length": 48, "call_seconds": PATIENT}
    config = TrainerServerConfig.model_validate({"model": model, "out": tmp_path / "run", "engine": engine})
    trainer = Trainer(config, None, None)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(trainer.app), base_url="http://127.0.0.1") as client:
            served = (await client.get("/v1/models")).json()["data"][0]
            ready = await client.get("/ready")
    finally:
        await trainer._engine.aclose()
    assert (served["max_model_len"], ready.status_code) == (48, 200)


async def test_what_the_server_would_pass_over_is_refused_here(opened: Opened, renderer: Renderer):
    with pytest.raises(UnknownName, match="no base model at"):
        opened(base_model="Qwen/of-my-own")
    engine = opened()
    sampler = TinkerSampler(engine, renderer.decode)
    for prompt, cuts in (((1,) * 48, {}), ((engine.vocabulary,), {}), (PROMPT, {"top_p": 0.5}), (PROMPT, {"temperature": 0.7})):
        with pytest.raises(UnusableRequest):
            await sampler.generate(GenerationRequest(prompt_ids=prompt, params=SamplingParams(max_tokens=TOKENS, **cuts)))
    with pytest.raises(TrainingError, match="its own"):
        await sampler.publish({"weight": torch.zeros(1)}, 1)


async def test_a_completion_that_does_not_come_is_given_up_at_the_deadline(opened: Opened, server: str, renderer: Renderer):
    wire = Wire(server)
    engine = opened(base_url=wire.url)
    sampler = TinkerSampler(engine, renderer.decode)
    engine.service.seconds = 1.0
    wire.cut()
    with pytest.raises(PolicyError, match=r"no completion within 1 seconds; the server is gone"):
        await sampler.generate(ask(renderer))
