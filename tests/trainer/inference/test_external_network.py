"""Weights over the network: a real process group of gloo, this process and two servers that receive real tensors."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import httpx
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from core.errors import TrainingError
from tests.trainer.inference.tiny import Reference, some_tokens
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.inference.base import GenerationRequest, SamplingParams
from trainer.inference.external import ExternalConfig, ExternalEngine, ServerKind, Way
from trainer.inference.external_group import address_towards
from trainer.inference.external_network import Collectives, NetworkConfig
from trainer.weights import GivenWeights, WeightFormat

PROMPT = some_tokens(20)
ROOT = Path(__file__).parents[3]
COMMANDS = ["pause_generation", "begin_weight_update", "update_weights_from_distributed", "end_weight_update"]


@pytest.fixture(scope="module")
def urls(model_dir: Path) -> Iterator[tuple[str, ...]]:
    command = [sys.executable, str(ROOT / "tests/trainer/inference/two_servers.py"), str(model_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
        assert servers.stdin is not None
        assert servers.stdout is not None
        yield tuple(servers.stdout.readline().strip() for _ in range(2))
        servers.stdin.close()


def engine_of(urls: tuple[str, ...], model_dir: Path, weights: Path, kind: WeightFormat) -> ExternalEngine:
    network = NetworkConfig(backend=Collectives.GLOO, part_bytes=20_000, part_seconds=60)
    config = ExternalConfig(urls=urls, weights=weights, publish=Way.NETWORK, network=network, weight_format=kind)
    return ExternalEngine(config, model_dir)


@pytest.fixture
async def external(urls: tuple[str, ...], model_dir: Path, tmp_path: Path) -> AsyncIterator[ExternalEngine]:
    engine = engine_of(urls, model_dir, tmp_path / "unused", WeightFormat.FLOAT32)
    yield engine
    await engine.aclose()


async def asked(urls: tuple[str, ...]) -> list[list[str]]:
    """The commands that each server was given."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return [(await client.get(f"{url}/asked")).json() for url in urls]


def ask(number: int, max_tokens: int = 6) -> GenerationRequest:
    return GenerationRequest(prompt_ids=PROMPT, params=SamplingParams(max_tokens=max_tokens), session_id=f"episode-{number}")


async def test_broadcast_weights_are_those_that_sample_next_and_no_request_is_dropped(
    external: ExternalEngine, urls: tuple[str, ...], other_model_dir: Path, other_reference: Reference, tmp_path: Path
):
    before = await asked(urls)
    running = [asyncio.create_task(external.generate(ask(number, max_tokens=200))) for number in range(4)]
    await external.publish_from(TorchEngine(other_model_dir, TorchEngineConfig()), 4)
    for number in range(8):
        made = await external.generate(ask(number))
        assert made.policy_version == 4
        assert list(made.logprobs) == pytest.approx(other_reference.logprobs(PROMPT, made.token_ids).tolist(), abs=1e-5)
    assert [len(one.token_ids) for one in await asyncio.gather(*running)] == [200] * 4
    for told, former in zip(await asked(urls), before, strict=True):
        new = told[len(former) :]
        assert new.count("update_weights_from_distributed") > 3  # in parts
        assert list(dict.fromkeys(new[2:])) == [*COMMANDS, "continue_generation"]
    assert not (tmp_path / "unused").exists()


async def test_a_model_that_two_processes_hold_is_sent_by_one_of_them(
    external: ExternalEngine, urls: tuple[str, ...], other_model_dir: Path, other_reference: Reference
):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = [str(ROOT / "tests/trainer/inference/fsdp_publishes.py"), str(other_model_dir), *urls]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = await asyncio.to_thread(
        subprocess.run, [*torchrun, *script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    made = await external.generate(ask(3))
    assert made.policy_version == 21
    assert list(made.logprobs) == pytest.approx(other_reference.logprobs(PROMPT, made.token_ids).tolist(), abs=1e-5)


async def test_the_group_is_met_once_and_left_at_the_end(
    urls: tuple[str, ...], model_dir: Path, other_model_dir: Path, tmp_path: Path
):
    before = await asked(urls)
    external = engine_of(urls, model_dir, tmp_path, WeightFormat.BFLOAT16)
    weights = load_file(other_model_dir / "model.safetensors")
    for version in (7, 8):
        await external.publish(weights, version)
    assert (await external.generate(ask(0))).policy_version == 8
    await external.aclose()
    for told, former in zip(await asked(urls), before, strict=True):
        new = told[len(former) :]
        assert (new.count("init_weights_update_group"), new.count("destroy_weights_update_group")) == (1, 1)


async def test_weights_that_a_server_does_not_know_are_refused_by_name_and_it_goes_on(
    external: ExternalEngine, urls: tuple[str, ...], model_dir: Path, reference: Reference
):
    weights: dict[str, Tensor] = load_file(model_dir / "model.safetensors")
    with pytest.raises(TrainingError, match=f"{urls[0]}.*no parameter of this model: .'lora'"):
        await external.publish({**weights, "lora": torch.zeros(3)}, 5)
    assert [told[-2:] for told in await asked(urls)] == [["continue_generation", "destroy_weights_update_group"]] * 2
    assert external.policy_version == 0
    await external.publish(weights, 6)  # they meet anew
    made = await external.generate(ask(1))
    assert made.policy_version == 6
    assert list(made.logprobs) == pytest.approx(reference.logprobs(PROMPT, made.token_ids).tolist(), abs=1e-5)


class SlowWeights(GivenWeights):
    """Fulfils TensorSource; waits before the last tensor, and can tell whether it was closed."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__(weights)
        self.asked, self.may_go_on, self.ended = threading.Event(), threading.Event(), False

    def each_weight(self) -> Generator[tuple[str, Tensor], None, None]:
        *first, last = super().each_weight()
        try:
            yield from first
            self.asked.set()
            self.may_go_on.wait(60)
            yield last
        finally:
            self.ended = True


async def test_a_publication_that_is_cancelled_leaves_source_and_servers_in_order(
    external: ExternalEngine, urls: tuple[str, ...], model_dir: Path
):
    weights = load_file(model_dir / "model.safetensors")
    source = SlowWeights(weights)
    publishing = asyncio.create_task(external.publish_from(source, 9))
    assert await asyncio.to_thread(source.asked.wait, 60)
    publishing.cancel()
    asyncio.get_running_loop().call_later(0.05, source.may_go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert source.ended
    assert len((await external.generate(ask(2))).token_ids) == 6
    await external.publish(weights, 10)
    assert (await external.generate(ask(2))).policy_version == 10


async def test_a_server_that_is_gone_is_named(urls: tuple[str, ...], model_dir: Path, tmp_path: Path):
    external = engine_of((*urls, "http://127.0.0.1:9"), model_dir, tmp_path, WeightFormat.FLOAT32)
    with pytest.raises(TrainingError, match=r"127\.0\.0\.1:9: /server_info does not answer"):
        await external.publish(load_file(model_dir / "model.safetensors"), 1)
    await external.aclose()


def test_only_servers_whose_workers_can_join_are_reached_by_it(tmp_path: Path):
    with pytest.raises(ValidationError, match="reaches SGLang servers only"):
        ExternalConfig(urls=("http://127.0.0.1:9",), weights=tmp_path, kind=ServerKind.VLLM, publish=Way.NETWORK)


def test_a_server_here_is_met_here():
    assert address_towards("http://127.0.0.1:9") == "127.0.0.1"
