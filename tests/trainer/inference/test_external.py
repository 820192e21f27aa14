"""Several servers behind one engine: SGLang's routes, spoken by servers that sample a real model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from core.errors import PolicyError, TrainingError
from tests.trainer.inference.serving import two_of
from tests.trainer.inference.sglang_stand_in import SGLangServer
from tests.trainer.inference.tiny import Reference, some_tokens
from trainer.inference.base import GenerationRequest, QueueFull, SamplingParams, UnusableRequest
from trainer.inference.external import ExternalConfig, ExternalEngine
from trainer.weights import WeightFormat

PROMPT = some_tokens(20)


@pytest.fixture
async def servers(model_dir: Path) -> AsyncIterator[list[SGLangServer]]:
    async with two_of(lambda: SGLangServer(model_dir)) as made:
        yield made


@pytest.fixture
async def external(servers: list[SGLangServer], model_dir: Path, tmp_path: Path) -> AsyncIterator[ExternalEngine]:
    config = ExternalConfig(urls=tuple(one.url for one in servers), weights=tmp_path, weight_format=WeightFormat.FLOAT32)
    engine = ExternalEngine(config, model_dir)
    yield engine
    await engine.aclose()


def ask(session_id: str | None = None, **params: object) -> GenerationRequest:
    settings = SamplingParams.model_validate({"max_tokens": 6, **params})
    return GenerationRequest(prompt_ids=PROMPT, params=settings, session_id=session_id)


async def test_ids_and_logprobs_come_as_they_were_sampled(external: ExternalEngine, reference: Reference):
    made = await external.generate(ask(temperature=0.7))
    expected = reference.logprobs(PROMPT, made.token_ids, 0.7)
    assert list(made.logprobs) == pytest.approx(expected.tolist(), abs=1e-5)
    assert (made.policy_version, len(made.token_ids)) == (0, 6)


async def test_a_session_stays_with_its_server(external: ExternalEngine, servers: list[SGLangServer]):
    for _ in range(6):
        await external.generate(ask("episode"))
    assert sorted(one.engine.stats().requests for one in servers) == [0, 6]


async def test_sessions_spread_over_the_servers(external: ExternalEngine, servers: list[SGLangServer]):
    for number in range(24):
        await external.generate(ask(f"episode-{number}", max_tokens=1))
    assert all(one.engine.stats().requests for one in servers)  # 2**-23 of all address pairs put 24 on one


async def test_published_weights_reach_every_server(
    external: ExternalEngine, servers: list[SGLangServer], other_model_dir: Path, other_reference: Reference
):
    await external.publish(load_file(other_model_dir / "model.safetensors"), 4)
    assert [one.commands for one in servers] == [["pause_generation", "update_weights_from_disk", "continue_generation"]] * 2
    for number in range(4):
        made = await external.generate(ask(f"episode-{number}"))
        assert made.policy_version == 4
        expected = other_reference.logprobs(PROMPT, made.token_ids)
        assert list(made.logprobs) == pytest.approx(expected.tolist(), abs=1e-5)


async def test_weights_of_another_model_are_refused_by_name(external: ExternalEngine, other_model_dir: Path):
    weights = load_file(other_model_dir / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].contiguous()
    with pytest.raises(TrainingError, match="did not take version 5"):
        await external.publish(weights, 5)
    assert external.policy_version == 0


async def test_another_server_answers_for_one_that_is_gone(external: ExternalEngine, servers: list[SGLangServer]):
    await external.generate(ask("episode"))
    gone, left = sorted(servers, key=lambda one: one.engine.stats().requests, reverse=True)
    await gone.stop()
    assert len((await external.generate(ask("episode"))).token_ids) == 6
    assert await external.healthy() == [left.url]
    await left.stop()
    with pytest.raises(PolicyError, match="no server answers"):
        await external.generate(ask("episode"))


async def test_full_servers_ask_to_come_back(external: ExternalEngine, servers: list[SGLangServer]):
    for one in servers:
        await one.engine.aclose()
    with pytest.raises(QueueFull):
        await external.generate(ask())


@pytest.mark.parametrize("params", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
async def test_what_has_no_exact_logprobs_is_refused(external: ExternalEngine, params: dict[str, float]):
    with pytest.raises(UnusableRequest, match="logprobs"):
        await external.generate(ask(**params))


async def test_a_refusal_of_a_server_is_the_callers_mistake(external: ExternalEngine):
    request = GenerationRequest(prompt_ids=(10**9,), params=SamplingParams(max_tokens=1))
    with pytest.raises(UnusableRequest, match="outside the vocabulary"):
        await external.generate(request)
