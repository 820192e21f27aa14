"""Adapters at servers elsewhere: loaded by name beside the model, unloaded when nothing in flight names them."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch

from core.errors import TrainingError
from tests.trainer.inference.serving import merged_by_peft, two_of
from tests.trainer.inference.sglang_stand_in import SGLangServer
from tests.trainer.inference.tiny import Reference, some_tokens
from tests.trainer.inference.vllm_stand_in import VllmServer
from tests.trainer.test_loop import ListSource
from tests.trainer.toy import random_samples
from trainer.algorithms.base import AdamParams
from trainer.algorithms.grpo import GRPO
from trainer.batch import collate
from trainer.checkpoints import CheckpointStore
from trainer.engines.lora import LoraSettings
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.inference.base import GenerationRequest, SamplingParams, UnusableRequest
from trainer.inference.external import ExternalConfig, ExternalEngine, ServerKind
from trainer.learner import Learner
from trainer.loop import LoopConfig, TrainLoop

PROMPT = some_tokens(20)
Server = SGLangServer | VllmServer
STAND_INS: dict[ServerKind, type[Server]] = {ServerKind.SGLANG: SGLangServer, ServerKind.VLLM: VllmServer}


@pytest.fixture(params=STAND_INS)
async def servers(request: pytest.FixtureRequest, model_dir: Path) -> AsyncIterator[list[Server]]:
    make: Callable[[], Server] = lambda: STAND_INS[request.param](model_dir)  # noqa: E731
    async with two_of(make) as made:
        yield made


def engine_of(servers: list[Server], model_dir: Path, weights: Path) -> ExternalEngine:
    kind = next(kind for kind, server in STAND_INS.items() if isinstance(servers[0], server))
    config = ExternalConfig(kind=kind, urls=tuple(one.url for one in servers), weights=weights)
    return ExternalEngine(config, model_dir, adapters=True)


@pytest.fixture
async def external(servers: list[Server], model_dir: Path, tmp_path: Path) -> AsyncIterator[ExternalEngine]:
    engine = engine_of(servers, model_dir, tmp_path)
    yield engine
    await engine.aclose()


@pytest.fixture
def trained(model_dir: Path) -> TorchEngine:
    """An engine whose adapter has learned something."""
    engine = TorchEngine(model_dir, TorchEngineConfig(lora=LoraSettings(rank=4, alpha=8)))
    learn(engine)
    return engine


def learn(engine: TorchEngine) -> None:
    engine.forward_backward(collate(random_samples()), GRPO().loss)
    engine.optim_step(AdamParams(lr=0.05))


def ask(session_id: str | None = None, **params: object) -> GenerationRequest:
    settings = SamplingParams.model_validate({"max_tokens": 6, **params})
    return GenerationRequest(prompt_ids=PROMPT, params=settings, session_id=session_id)


def logprobs_of(engine: TorchEngine, reference: Reference, made: tuple[int, ...]) -> list[float]:
    """What the merged weights say of a completion, by transformers."""
    merged = Reference(Path(reference.model.name_or_path))
    merged.model.load_state_dict(engine.state_dict())
    return merged.logprobs(PROMPT, made).tolist()


def test_peft_reads_the_adapter_as_it_was_trained(trained: TorchEngine, model_dir: Path, tmp_path: Path):
    trained.save_adapter(tmp_path)
    for name, value in merged_by_peft(model_dir, tmp_path).items():
        torch.testing.assert_close(value, trained.state_dict()[name], atol=1e-6, rtol=1e-6, msg=name)


async def test_what_samples_is_the_adapter_and_no_server_stops_for_it(
    external: ExternalEngine, servers: list[Server], trained: TorchEngine, reference: Reference
):
    before = await external.generate(ask())
    await external.publish_from(trained, 3)
    assert [one.commands for one in servers] == [["load"]] * 2
    for number in range(4):
        made = await external.generate(ask(f"episode-{number}"))
        assert made.policy_version == 3
        assert list(made.logprobs) == pytest.approx(logprobs_of(trained, reference, made.token_ids), abs=1e-5)
    assert before.policy_version == 0
    assert list(before.logprobs) == pytest.approx(reference.logprobs(PROMPT, before.token_ids).tolist(), abs=1e-5)


async def test_the_loop_publishes_the_adapter_of_its_engine(
    external: ExternalEngine, servers: list[Server], trained: TorchEngine, tmp_path: Path
):
    learner, checkpoints = Learner(trained, GRPO()), CheckpointStore(tmp_path / "checkpoints")
    await TrainLoop(LoopConfig(max_steps=0), learner, checkpoints).run(ListSource(), external)
    assert [one.commands for one in servers] == [["load"]] * 2


async def test_a_request_ends_on_the_adapter_that_it_named_which_goes_only_then(
    external: ExternalEngine, servers: list[Server], trained: TorchEngine, reference: Reference
):
    await external.publish_from(trained, 1)
    former = [name for name, _ in servers[0].adapters.listed()]
    for one in servers:
        one.adapters.gate.clear()
    running = [asyncio.create_task(external.generate(ask(f"episode-{number}", max_tokens=40))) for number in range(6)]
    async with asyncio.timeout(60):
        while sum(sum(one.adapters.running.values()) for one in servers) < 6:
            await asyncio.sleep(0.001)
    expected, folders = trained.state_dict(), [Path(folder) for _, folder in servers[0].adapters.listed()]
    learn(trained)
    await external.publish_from(trained, 2)
    for one in servers:
        one.adapters.gate.set()
    after = await external.generate(ask("episode-0"))
    made = await asyncio.gather(*running)
    assert [[(span.version, span.end) for span in one.spans] for one in made] == [[(1, 40)]] * 6
    assert after.policy_version == 2
    old = Reference(Path(reference.model.name_or_path))
    old.model.load_state_dict(expected)
    assert list(made[0].logprobs) == pytest.approx(old.logprobs(PROMPT, made[0].token_ids).tolist(), abs=1e-5)
    async with asyncio.timeout(60):
        while any(folder.exists() for folder in folders):
            await asyncio.sleep(0.001)
    assert [one.adapters.cut_off for one in servers] == [[], []]
    assert not any(name in one.adapters for one in servers for name in former)
    assert all(len(one.adapters.listed()) == 1 for one in servers)


async def test_a_server_that_started_anew_is_given_the_adapter_again(
    external: ExternalEngine, servers: list[Server], trained: TorchEngine
):
    await external.publish_from(trained, 5)
    for one in servers:
        for name, _ in one.adapters.listed():
            one.adapters.unload(name)
    made = await asyncio.gather(*(external.generate(ask(f"episode-{number}")) for number in range(8)))
    assert {one.policy_version for one in made} == {5}
    assert all(one.commands.count("load") <= 2 for one in servers)


async def test_a_run_that_goes_on_unloads_what_it_left_before(
    external: ExternalEngine, servers: list[Server], model_dir: Path, trained: TorchEngine, tmp_path: Path
):
    await external.publish_from(trained, 5)
    again = engine_of(servers, model_dir, tmp_path)
    await again.publish_from(trained, 5)
    assert [one.commands for one in servers] == [["load", "unload", "load"]] * 2
    assert [path.name for path in tmp_path.iterdir()] == [name for name, _ in servers[0].adapters.listed()]
    await again.aclose()


async def test_a_mistake_of_the_caller_stays_one(external: ExternalEngine, trained: TorchEngine):
    await external.publish_from(trained, 1)
    with pytest.raises(UnusableRequest, match="refused the request"):
        await external.generate(GenerationRequest(prompt_ids=(10**9,), params=SamplingParams(max_tokens=1)))


@pytest.mark.parametrize("kind", STAND_INS)
async def test_a_server_without_adapters_is_named_with_what_it_must_be_started_with(
    kind: ServerKind, model_dir: Path, trained: TorchEngine, tmp_path: Path
):
    server = STAND_INS[kind](model_dir, lora=False)
    external = engine_of([server], model_dir, tmp_path)
    with pytest.raises(TrainingError, match=f"{server.url}.* a server takes adapters with .*--enable-lora"):
        await external.publish_from(trained, 1)
    assert (await external.generate(ask())).policy_version == 0
    await external.aclose()
    await server.stop()


async def test_without_an_adapter_there_is_none_to_publish(external: ExternalEngine, model_dir: Path, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"no adapter without engine\.lora"):
        await external.publish_from(TorchEngine(model_dir, TorchEngineConfig()), 1)
    with pytest.raises(TrainingError, match='"lora" needs an engine that trains an adapter'):
        await external.publish({}, 1)
    shutil.rmtree(tmp_path)
