"""The trainer as a process: it serves before there is anything to learn from, and never writes over a run."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from torch import Tensor

from core.errors import QueueError
from core.settings import child_environ
from core.types import Update
from services.bind import claim_socket, make_server, url_of
from services.rollout_api.messages import RunSpec, RunStatus
from services.sdk.rollout_client import RolloutClient
from services.trainer_server.config import TrainerServerConfig
from services.trainer_server.server import Trainer, run_id
from services.trainer_server.source import ApiSource
from tests.services.rollout_api.harness import serving
from tests.services.small_policy import NATGYM, ROOT, natgym
from tests.trainer.toy import pair, write_toy_model
from trainer.checkpoints import CheckpointStore, Progress
from trainer.config import make_checkpoints, make_learner
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig
from trainer.inference.external import ExternalConfig, Way
from trainer.loop import LoopConfig, TrainLoop
from trainer.metrics import read_metrics


def test_it_serves_the_policy_while_there_is_no_rollout_api(random_policy: Path, tmp_path: Path):
    arguments = ["serve", "trainer", "--port", "0", "--api-url", "http://127.0.0.1:9", "--model", str(random_policy)]
    body = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 4}, "return_logprob": True}
    with subprocess.Popen(
        [*NATGYM, *arguments, "--out", str(tmp_path)],
        cwd=ROOT,
        env=child_environ(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            assert len(said) > 1, process.communicate(timeout=60)
            with httpx.Client(trust_env=False, transport=httpx.HTTPTransport(retries=5), timeout=60) as http:
                served = http.get(f"{said[1]}/v1/models").json()["data"][0]
                answer = http.post(f"{said[1]}/generate", json=body).json()
            os.kill(process.pid, signal.SIGTERM)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert served["path"] == str(random_policy)
    assert answer["meta_info"]["completion_tokens"] <= 4
    assert "waiting_for" in told
    assert process.returncode == 0


def test_a_folder_that_holds_a_run_is_not_written_over(random_policy: Path, tmp_path: Path):
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "progress.json").write_text('{"step": 1}')
    done = natgym("serve", "trainer", "--model", str(random_policy), "--out", str(tmp_path), "--port", "0")
    assert done.returncode == 2
    assert f"{tmp_path} holds a run already: go on with it by --resume" in done.stderr


def test_a_checkpoint_of_another_model_is_one_line_that_names_it(random_policy: Path, tmp_path: Path):
    toy_model = write_toy_model(tmp_path / "toy")
    saved = CheckpointStore(tmp_path / "checkpoints").save(Progress(step=1), TorchEngine(toy_model, TorchEngineConfig()))
    done = natgym("serve", "trainer", "--model", str(random_policy), "--out", str(tmp_path), "--port", "0", "--resume")
    assert done.returncode == 2
    assert f"natgym: {saved}: weights of another model" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_without_a_chat_template_is_one_line(random_policy: Path, tmp_path: Path):
    shutil.copytree(random_policy, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    done = natgym("serve", "trainer", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "run"), "--port", "0")
    assert done.returncode == 2
    assert f"{tmp_path / 'model' / 'chat_template.jinja'}: not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_has_the_same_id_whenever_it_is_resumed(tmp_path: Path):
    assert run_id(tmp_path / "a") == run_id(tmp_path / "a")
    assert run_id(tmp_path / "a") != run_id(tmp_path / "b")


async def test_a_run_may_be_sampled_by_servers_elsewhere(random_policy: Path, tmp_path: Path):
    elsewhere = ExternalConfig(urls=("http://127.0.0.1:9",), weights=tmp_path / "weights")
    config = TrainerServerConfig(model=random_policy, out=tmp_path / "run", api_url="http://127.0.0.1:9", external=elsewhere)
    trainer, sock = Trainer(config, None, None), claim_socket("127.0.0.1", 0)
    server = make_server(trainer.app)
    serving = asyncio.create_task(trainer.serve(server, sock))
    async with httpx.AsyncClient(base_url=url_of(sock), trust_env=False, timeout=60) as http:
        refused = await http.post("/generate", json={"input_ids": [1, 2, 3]})
    server.should_exit = True
    await serving
    assert refused.status_code == 500
    assert "no server answers: http://127.0.0.1:9" in refused.json()["error"]["message"]


def test_adapters_are_published_only_where_one_learns(random_policy: Path, tmp_path: Path):
    elsewhere = ExternalConfig(urls=("http://127.0.0.1:9",), weights=tmp_path / "weights", publish=Way.LORA)
    with pytest.raises(ValidationError, match=r"the whole model learns; set engine\.lora"):
        TrainerServerConfig(model=random_policy, external=elsewhere)
    assert TrainerServerConfig(model=random_policy, external=elsewhere, engine={"lora": {}}).learns_an_adapter  # pyright: ignore


async def test_a_run_without_environments_says_what_it_waits_for(
    random_policy: Path, tmp_path: Path, stuck: list[dict[str, str]]
):
    async with serving(tmp_path / "q") as api, RolloutClient(api) as client:
        config = TrainerServerConfig(model=random_policy, out=tmp_path / "run", api_url=api, stuck_after_seconds=1)
        trainer, sock = Trainer(config, None, None), claim_socket("127.0.0.1", 0)
        server = make_server(trainer.app)
        with sock:
            running = asyncio.create_task(trainer.serve(server, sock))
            async with asyncio.timeout(60):
                while not stuck:
                    await asyncio.sleep(0.05)
            server.should_exit = True
            await running
        assert (await client.status()).run is not None
    assert stuck[0]["part"] == "training"
    assert "0 of 8 groups are queued" in stuck[0]["detail"]
    assert "no environment server makes any (registered: none): is `natgym serve env NAME` running?" in stuck[0]["detail"]


class DiesBeforeAcknowledging(ApiSource):
    """What a kill -9 between a checkpoint and its acknowledgement leaves."""

    async def acknowledge(self, batch_id: str, update: Update) -> None:
        raise QueueError("killed")


async def test_a_step_that_was_not_acknowledged_is_made_up_for_and_not_made_twice(random_policy: Path, tmp_path: Path):
    async with serving(tmp_path / "q") as api, RolloutClient(api) as client:
        loop_config = LoopConfig(max_steps=2, max_refill=1)
        sizes = {"groups_per_batch": 2, "group_size": 2, "loop": loop_config}
        config = TrainerServerConfig(model=random_policy, out=tmp_path / "run", api_url=api, **sizes)
        await client.open_run(RunSpec(id=run_id(config.out), groups_per_batch=2, group_size=2, max_staleness=4, total_steps=2))
        for name in "abcd":
            await client.post_group(pair(name))
        loop = TrainLoop(loop_config, make_learner(config), make_checkpoints(config))
        with pytest.raises(QueueError, match="killed"):
            await loop.run(DiesBeforeAcknowledging(client, config, loop.stop), Unheard())
        trainer, sock = Trainer(config, None, None), claim_socket("127.0.0.1", 0)
        server = make_server(trainer.app)
        running = asyncio.create_task(trainer.serve(server, sock))
        async with asyncio.timeout(120):
            while (status := await client.status()).run is None or status.run.status is not RunStatus.FINISHED:
                assert not running.done(), running
                await asyncio.sleep(0.05)
        server.should_exit = True
        await running
    assert status.counts.trained == 4
    [record] = read_metrics(config.out / "metrics.jsonl")
    assert (record.step, record.rollouts_trained, record.dropped) == (2, 4, {})


class Unheard:
    """Takes weights for nobody."""

    async def publish(self, weights: Mapping[str, Tensor], version: int) -> None: ...


@pytest.fixture
def stuck() -> Iterator[list[dict[str, str]]]:
    """The fields of what the watchdog logs."""
    logger, found = logging.getLogger("natgym.watchdog"), []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(getattr(record, "fields", {}))
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
