"""The toy task of benchmarks.trainer by one training loop: with a source of its own, through the queue, and by three services.

All are the loop with its metrics and checkpoints, of one configuration. Directly, a step samples its groups in this process
and then learns from them. Through the queue it does the same, and each group is asked for, posted, taken and acknowledged
at a rollout API, a process as `natgym serve api` starts it. By the services the rollout API, the trainer and an environment
server are processes as `natgym serve` starts them; groups are sampled while others are learned from, as by default.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.trainer_parts import Asked, Player
from core.types import Update
from services.bind import free_ports
from services.heap import settle_heap
from services.ready import wait_until_ready
from services.rollout_api.messages import RunSpec
from services.run_file import RunFile
from services.sdk.rollout_client import RolloutClient
from services.trainer_server.config import TrainerServerConfig
from services.trainer_server.source import ApiSource
from trainer.config import make_checkpoints, make_learner
from trainer.inference.local_engine import LocalEngine
from trainer.loop import BatchSource, TakenBatch, TrainLoop
from trainer.metrics import MetricsFile, StepRecord, read_metrics

WARM, STEPS = 10, 50
LIMIT_SECONDS = 600
LOOK_SECONDS = 0.02
STARTED = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Course(NamedTuple):
    """What the steps of a run took on average, without the first few."""

    wall: float
    """Seconds a step."""
    cpu: dict[str, float]
    """CPU seconds a step, by process."""
    steps_to_reward: int
    """Steps until the mean reward of a batch was there; all of them where it never was."""


class Now(NamedTuple):
    """Seconds so far."""

    wall: float
    cpu: dict[str, float]


def file_of(asked: Asked, out: Path, ports: Sequence[int] = (0, 0)) -> RunFile:
    """The run's file: what both ways of training are told."""
    api, trainer = ports
    out.mkdir(parents=True)
    (path := out / "run.toml").touch()  # without a file natgym's services have that of the main job
    return RunFile(path).with_flags(
        api__port=api,
        api__database=str(out / "queue.sqlite"),
        trainer__model=asked.model,
        trainer__out=str(out),
        trainer__port=trainer,
        trainer__api_url=f"http://127.0.0.1:{api}",
        trainer__seed=asked.seed,
        trainer__inference__seed=asked.seed,
        trainer__groups_per_batch=asked.groups,
        trainer__group_size=asked.size,
        trainer__algorithm__lr=asked.lr,
        trainer__loop__max_steps=STEPS,
        trainer__loop__max_staleness=1,
        trainer__loop__max_refill=1,
        trainer__checkpoints__every=STEPS,
    )


class DirectSource:
    """Samples a batch when one is taken, in this process. See trainer.loop.BatchSource."""

    def __init__(self, player: Player) -> None:
        self._player, self._step = player, 0

    async def take_batch(self, policy_version: int) -> TakenBatch:
        groups = await self._player.play(self._step)
        self._step += 1
        return TakenBatch(str(self._step), groups)

    async def refill(self, batch_id: str, refused: Sequence[str], policy_version: int) -> None:
        return None

    async def acknowledge(self, batch_id: str, update: Update) -> None:
        return None


class QueuedSource(ApiSource):
    """The same, and every group goes through the rollout API. See trainer.loop.BatchSource."""

    def __init__(self, player: Player, client: RolloutClient, config: TrainerServerConfig) -> None:
        super().__init__(client, config, lambda: None)
        self._player, self._queue, self._step = player, client, 0

    async def take_batch(self, policy_version: int) -> TakenBatch | None:
        demand = await self._queue.demand("even", 0, worker="w", wait_seconds=20.0, most=self._config.groups_per_batch)
        assert demand.groups == self._config.groups_per_batch
        groups = await self._player.play(self._step)
        self._step += 1
        await asyncio.gather(*(self._queue.post_group(group, worker="w") for group in groups))
        return await super().take_batch(policy_version)


def directly(asked: Asked, out: Path, goal: float) -> Course:
    """Train in this process."""
    config = file_of(asked, out).section("trainer", TrainerServerConfig)
    return asyncio.run(_trained(asked, config, goal, {}, DirectSource))


def through_the_queue(asked: Asked, out: Path, goal: float) -> Course:
    """The same with a rollout API between sampling and learning."""
    (port,) = free_ports("127.0.0.1", [18000])
    file = file_of(asked, out, (port, 0))
    config = file.section("trainer", TrainerServerConfig)
    spec = RunSpec(
        id="toy",
        groups_per_batch=asked.groups,
        group_size=asked.size,
        max_staleness=config.loop.staleness,
        total_steps=STEPS,
        step=0,
        policy_version=0,
    )

    async def train(started: dict[str, subprocess.Popen]) -> Course:
        await wait_until_ready(f"{config.api_url}/ready", "the rollout API", limit_seconds=LIMIT_SECONDS)
        async with RolloutClient(config.api_url) as client:
            await client.register_environment("even")
            await client.open_run(spec)
            return await _trained(asked, config, goal, started, lambda player: QueuedSource(player, client, config))

    with processes({"rollout API": ["-m", "services.cli", "serve", "api", *file.arguments()]}, out) as started:
        return asyncio.run(train(started))


async def _trained(
    asked: Asked,
    config: TrainerServerConfig,
    goal: float,
    others: dict[str, subprocess.Popen],
    source: Callable[[Player], BatchSource],
) -> Course:
    torch.set_num_threads(1)
    metrics, moments = MetricsFile(config.out / "metrics.jsonl"), list[Now]()

    def noted(record: StepRecord) -> None:
        metrics.write(record)
        spent = {name: _cpu(process.pid) for name, process in others.items()}
        moments.append(Now(time.time(), {"trainer": time.process_time(), **spent}))

    engine = LocalEngine.load(config.model, config.inference)
    loop = TrainLoop(config.loop, make_learner(config), make_checkpoints(config), noted)
    settle_heap()
    await loop.run(source(Player(asked, engine)), engine)
    await engine.aclose()
    metrics.close()
    return course(moments[WARM - 1], moments[STEPS - 2], STEPS - 1 - WARM, config.out, goal)


def by_three_services(asked: Asked, out: Path, goal: float) -> Course:
    """Train through the rollout API, the trainer and an environment server, each a process of its own."""
    ports = free_ports("127.0.0.1", [18000, 18001])
    file, (api, trainer) = file_of(asked, out, ports), (f"http://127.0.0.1:{port}" for port in ports)
    told = json.dumps({"asked": asked._asdict(), "api_url": api, "policy_url": trainer, "max_groups": 4 * asked.groups})
    commands = {
        "rollout API": ["-m", "services.cli", "serve", "api", *file.arguments()],
        "trainer": ["-m", "services.cli", "serve", "trainer", *file.arguments()],
        "environment server": ["-m", "benchmarks.even_tokens", told],
    }
    with processes(commands, out) as started:
        first, last = (_when(out, number, started) for number in (WARM, STEPS - 1))
    return course(first[1], last[1], last[0] - first[0], out, goal)


def course(first: Now, last: Now, steps: int, out: Path, goal: float) -> Course:
    """What lies between two moments, a step."""
    records = read_metrics(out / "metrics.jsonl")
    reached = next((one.step for one in records if one.reward_mean is not None and one.reward_mean >= goal), STEPS)
    spent = {name: (seconds - first.cpu[name]) / steps for name, seconds in last.cpu.items()}
    return Course((last.wall - first.wall) / steps, spent, reached)


@contextmanager
def processes(commands: dict[str, list[str]], out: Path) -> Iterator[dict[str, subprocess.Popen]]:
    """Python processes with a log each, all killed at the end."""
    started: dict[str, subprocess.Popen] = {}
    try:
        for name, arguments in commands.items():
            with (out / f"{name}.log").open("wb") as log:
                started[name] = subprocess.Popen(
                    [sys.executable, *arguments], stdout=log, stderr=log, env={**os.environ, **STARTED}
                )
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def _when(out: Path, steps: int, started: dict[str, subprocess.Popen]) -> tuple[int, Now]:
    """As soon as so many steps were made: how many it were then, and what had been used."""
    until, path = time.monotonic() + LIMIT_SECONDS, out / "metrics.jsonl"
    while True:
        done = path.read_bytes().count(b"\n") if path.exists() else 0
        if done >= steps:
            return done, Now(time.time(), {name: _cpu(process.pid) for name, process in started.items()})
        for name, process in started.items():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{name}: {(out / f'{name}.log').read_text()[-2000:]}")
        time.sleep(LOOK_SECONDS)


def _cpu(pid: int) -> float:
    # the clock that counts the CPU time of another process, in nanoseconds (Linux: MAKE_PROCESS_CPUCLOCK)
    return time.clock_gettime((~pid << 3) | 2)
