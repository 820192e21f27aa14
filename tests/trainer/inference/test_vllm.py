"""vLLM servers behind the engine: its routes and fields, spoken by a server that samples a real model."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from core.errors import TrainingError
from tests.trainer.inference.serving import two_of
from tests.trainer.inference.tiny import Reference, some_tokens
from tests.trainer.inference.vllm_stand_in import VllmServer
from trainer.inference.base import GenerationRequest, QueueFull, SamplingParams, UnusableRequest
from trainer.inference.external import ExternalConfig, ExternalEngine, ServerKind
from trainer.weights import WeightFormat

PROMPT = some_tokens(40)


@pytest.fixture
async def servers(model_dir: Path) -> AsyncIterator[list[VllmServer]]:
    async with two_of(lambda: VllmServer(model_dir)) as made:
        yield made


def external_of(servers: list[VllmServer], model_dir: Path, weights: Path, *, processed: bool = True) -> ExternalEngine:
    config = ExternalConfig(
        kind=ServerKind.VLLM, urls=tuple(one.url for one in servers), weights=weights,
        weight_format=WeightFormat.FLOAT32, processed_logprobs=processed,
    )  # fmt: skip
    return ExternalEngine(config, model_dir)


@pytest.fixture
async def external(servers: list[VllmServer], model_dir: Path, tmp_path: Path) -> AsyncIterator[ExternalEngine]:
    engine = external_of(servers, model_dir, tmp_path)
    yield engine
    await engine.aclose()


def ask(session_id: str | None = None, **params: object) -> GenerationRequest:
    settings = SamplingParams.model_validate({"max_tokens": 6, **params})
    return GenerationRequest(prompt_ids=PROMPT, params=settings, session_id=session_id)


async def test_ids_and_logprobs_come_as_they_were_sampled(external: ExternalEngine, reference: Reference):
    made = await external.generate(ask(temperature=0.7, seed=3))
    expected = reference.logprobs(PROMPT, made.token_ids, 0.7)
    assert list(made.logprobs) == pytest.approx(expected.tolist(), abs=1e-5)
    assert (made.policy_version, len(made.token_ids)) == (0, 6)


async def test_a_session_stays_with_its_server(external: ExternalEngine, servers: list[VllmServer]):
    for _ in range(4):
        await external.generate(ask("episode", max_tokens=1))
    assert sorted(len(one.salts) for one in servers) == [0, 4]


async def test_published_weights_reach_every_server_and_their_label_comes_back(
    external: ExternalEngine, servers: list[VllmServer], other_model_dir: Path, other_reference: Reference
):
    await external.publish(load_file(other_model_dir / "model.safetensors"), 4)
    wanted = ["pause?mode=keep", "collective_rpc", "update_weight_version", "resume"]
    assert [one.commands for one in servers] == [wanted] * 2
    for number in range(4):
        made = await external.generate(ask(f"episode-{number}"))
        assert made.policy_version == 4
        expected = other_reference.logprobs(PROMPT, made.token_ids)
        assert list(made.logprobs) == pytest.approx(expected.tolist(), abs=1e-5)


async def test_what_a_server_samples_that_started_anew_counts_as_the_oldest_version(
    external: ExternalEngine, servers: list[VllmServer], other_model_dir: Path
):
    await external.publish(load_file(other_model_dir / "model.safetensors"), 4)
    for one in servers:
        one.label = "default"
    assert (await external.generate(ask())).policy_version == 0


async def test_no_request_is_dropped_by_a_publication_and_none_shares_a_cache_across_it(
    external: ExternalEngine, servers: list[VllmServer], other_model_dir: Path
):
    await external.generate(ask("episode"))
    running = [asyncio.create_task(external.generate(ask(f"episode-{number}", max_tokens=200))) for number in range(6)]
    async with asyncio.timeout(30):
        while sum(len(one.salts) for one in servers) < 7:
            await asyncio.sleep(0.001)
    publishing = asyncio.create_task(external.publish(load_file(other_model_dir / "model.safetensors"), 1))
    async with asyncio.timeout(30):
        while not all(one.commands for one in servers):
            await asyncio.sleep(0.001)
    meanwhile = [asyncio.create_task(external.generate(ask(f"late-{number}"))) for number in range(4)]
    await publishing
    after = await external.generate(ask("episode"))
    assert [len(one.token_ids) for one in await asyncio.gather(*running)] == [200] * 6
    assert [len(one.token_ids) for one in await asyncio.gather(*meanwhile)] == [6] * 4
    assert after.policy_version == 1
    salts = [salt for one in servers for salt in one.salts]
    assert sum(salt.startswith("version-0-") for salt in salts) == 7
    own = [salt for salt in salts if not salt.startswith("version-")]
    assert len(set(own)) == len(own)


async def test_weights_of_another_model_are_refused_and_the_server_goes_on(
    external: ExternalEngine, servers: list[VllmServer], other_model_dir: Path
):
    weights = load_file(other_model_dir / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].contiguous()
    with pytest.raises(TrainingError, match="collective_rpc answered 500"):
        await external.publish(weights, 5)
    assert all(one.commands[-1] == "resume" for one in servers)
    assert external.policy_version == 0
    assert len((await external.generate(ask())).token_ids) == 6


async def test_a_full_server_is_passed_over_and_two_ask_to_come_back(external: ExternalEngine, servers: list[VllmServer]):
    servers[0].full = True
    for number in range(4):
        await external.generate(ask(f"episode-{number}", max_tokens=1))
    servers[1].full = True
    with pytest.raises(QueueFull):
        await external.generate(ask())
    assert sorted(await external.healthy()) == sorted(one.url for one in servers)


@pytest.mark.parametrize("params", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
async def test_logprobs_of_another_distribution_are_refused(
    servers: list[VllmServer], model_dir: Path, tmp_path: Path, params: dict[str, float]
):
    engine = external_of(servers, model_dir, tmp_path, processed=False)
    with pytest.raises(UnusableRequest, match="--logprobs-mode processed_logprobs"):
        await engine.generate(ask(**params))
    assert len((await engine.generate(ask())).token_ids) == 6
    await engine.aclose()
