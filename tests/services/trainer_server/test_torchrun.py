"""A trainer over two processes: one serves and takes groups, both compute."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.settings import child_environ
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import serving
from tests.services.small_policy import ROOT, natgym
from tests.trainer.toy import pair
from trainer.metrics import read_metrics

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "services.cli")
SECTION = "trainer.engine.name=fsdp", "trainer.groups_per_batch=2", "trainer.group_size=2", "trainer.loop.max_steps=2"


@contextmanager
def run_of_two(api: str, model: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """torchrun, and the file of what it and its processes say; none of them outlives the block."""
    settings = [part for one in SECTION for part in ("--set", one)]
    command = [*TORCHRUN, "serve", "trainer", "--port", "0", "--api-url", api, "--model", str(model), *settings]
    environ, told = child_environ(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"), folder / "told"
    with told.open("wb") as file:  # a pipe that nobody reads would hold them up once it is full
        process = subprocess.Popen([*command, "--out", str(folder / "run")], cwd=ROOT, env=environ, stderr=file)
    try:
        yield process, told
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun ends its processes then, with SIGKILL where they do not
            process.wait(timeout=100)


async def test_two_processes_take_groups_and_learn_from_them(random_policy: Path, tmp_path: Path):
    async with serving(tmp_path / "q") as api, RolloutClient(api) as client:
        with run_of_two(api, random_policy, tmp_path) as (process, told):
            async with asyncio.timeout(200):
                while (run := (await client.status()).run) is None:
                    assert process.poll() is None, told.read_text()[-3000:]
                    await asyncio.sleep(0.2)
                for step in (0, 1):
                    for name in "ab":
                        await client.post_group(pair(f"{name}{step}", version=step))
                    while run is None or run.step <= step:
                        assert process.poll() is None, told.read_text()[-3000:]
                        await asyncio.sleep(0.2)
                        run = (await client.status()).run
            # torchrun calls a run that it was told to end a failure: its processes are told, as a service manager does
            for worker in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(worker), signal.SIGTERM)
            await asyncio.to_thread(process.wait, timeout=100)
    assert process.returncode == 0, told.read_text()[-3000:]
    assert [record.rollouts_trained for record in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [4, 4]
    assert "follows rank=1" in told.read_text()


def test_one_process_is_told_how_to_be_several(random_policy: Path, tmp_path: Path):
    done = natgym(
        "serve", "trainer", "--model", str(random_policy), "--out", str(tmp_path), "--set", "trainer.engine.name=fsdp"
    )
    assert done.returncode == 2
    assert "torchrun --nproc-per-node N -m services.cli serve trainer" in done.stderr
