"""The sequence of a run: services up, held-out tasks before, training, held-out tasks after, everything down."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx

from core.errors import QueueError
from core.files import write_whole
from core.settings import Settings
from environments.evaluation import EvaluationReport
from services.bind import free_ports
from services.dashboard.plot import plot_rewards
from services.dashboard.progress import Progress, Rate, View, since
from services.dashboard.report import share
from services.environment_server.record import read_groups
from services.ready import wait_until_ready
from services.rollout_api.access import Role, Tokens
from services.rollout_api.messages import QueueStatus, Run, RunStatus
from services.run_file import NAT_SMALL, RunFile
from services.sdk.rollout_client import RolloutClient
from services.up.children import Child, Children, ServiceDied
from services.up.folder import RunFolder, UpOptions
from services.up.memory import PeakMemory
from services.up.processes import adopt_orphans, end_orphans, reap_orphans
from services.up.summary import (
    Summary,
    dropped_by_reason,
    figures,
    lost_by_boundary,
    mean_phases,
    sampled_tokens_per_second,
    seconds_per_step,
)
from trainer.metrics import StepRecord, read_metrics

HOST = "127.0.0.1"
API_PORT, TRAINER_PORT = 8000, 8001
START_SECONDS = 180.0
LOOK_SECONDS = 0.5
LAST_STEP_SECONDS = 120.0
API, TRAINER, ENVIRONMENT, EVALUATION = "rollout API", "trainer", "environment server", "evaluation"


class _Services(NamedTuple):
    """What a training speaks to."""

    children: Children
    queue: RolloutClient
    trainer: httpx.AsyncClient


class UpRun:
    """One run in one folder."""

    def __init__(self, options: UpOptions, folder: RunFolder, settings: Settings, view: View) -> None:
        self._options, self._folder, self._settings, self._view = options, folder, settings, view
        self._started = time.monotonic()
        self._training_since, self._training_seconds = time.time(), 0.0
        self._memory = PeakMemory()
        self._progress = Progress(title=f"natgym  {options.environment}  {folder.path}")
        self._tokens, self._rollouts = Rate(), Rate()
        config = Path(options.config) if options.config else NAT_SMALL
        file = RunFile(config, options.overrides)
        self._ports = self._choose_ports(file)
        self._api_url, self._trainer_url = (f"http://{HOST}:{port}" for port in self._ports)
        self._file = self._with_options(file)

    async def run(self) -> Summary:
        """Do it all; the summary is also in the folder.

        Raises ServiceDied, and ConfigError and PortInUse before anything was started. Leaves no process behind.
        """
        adopt_orphans()
        try:
            async with Children(self._folder.logs) as children, asyncio.TaskGroup() as owner:
                watches = [owner.create_task(children.watch()), owner.create_task(self._watch(children))]
                await self._sequence(children)
                for watch in watches:
                    watch.cancel()
        except BaseException:
            end_orphans()
            with suppress(OSError):  # a full disk must not hide what ended the run
                self._plot()
            raise
        end_orphans()
        self._plot()
        summary = self._summary()
        write_whole(self._folder.summary, summary.model_dump_json(indent=2) + "\n")
        return summary

    async def _sequence(self, children: Children) -> None:
        self._enter("starting the rollout API and the trainer")
        await children.start(API, ["serve", "api", *self._file.arguments()])
        await wait_until_ready(f"{self._api_url}/ready", f"the {API}", limit_seconds=START_SECONDS)
        await children.start(TRAINER, ["serve", "trainer", "--resume", *self._file.arguments()])
        await wait_until_ready(f"{self._trainer_url}/health", f"the {TRAINER}", limit_seconds=START_SECONDS)
        self._view.say(f"{API} {self._api_url}   {TRAINER} {self._trainer_url}   logs {self._folder.logs}")
        token = Tokens.of(self._settings).for_role(Role.TRAINER)
        async with RolloutClient(self._api_url, token, retry_seconds=30.0) as queue, self._http() as trainer:
            services = _Services(children, queue, trainer)
            run = await self._opened(queue)
            await self._evaluate(children, "before")
            await self._train(services, run)
        await self._evaluate(children, "after")
        self._enter("stopping")

    async def _train(self, services: _Services, run: Run) -> None:
        if run.status is RunStatus.FINISHED:
            return
        self._folder.evaluation("after").unlink(missing_ok=True)  # of fewer steps, where the run is resumed
        arguments = ["serve", "env", self._options.environment, "--record", str(self._folder.groups)]
        server = await services.children.start(ENVIRONMENT, [*arguments, *self._file.arguments()], may_end=True)
        self._enter("training", run.step, run.total_steps)
        self._training_since, started = time.time(), time.monotonic()
        while (status := await services.queue.status()).run is not None and status.run.status is not RunStatus.FINISHED:
            await self._show_training(services.trainer, status)
            minutes = (time.monotonic() - started) / 60
            if self._options.minutes is not None and minutes > self._options.minutes:
                await services.queue.set_run_status(run.id, RunStatus.FINISHED)
            await asyncio.sleep(LOOK_SECONDS)
        await self._show_training(services.trainer, status)
        await services.children.stop(server)
        await self._last_step_done(services)
        self._training_seconds = time.monotonic() - started

    async def _opened(self, client: RolloutClient) -> Run:
        """The run, as soon as the trainer has opened it."""
        deadline = time.monotonic() + START_SECONDS
        while (run := (await client.status()).run) is None:
            if time.monotonic() > deadline:
                raise QueueError(f"the {TRAINER} has not opened its run within {START_SECONDS:g} seconds")
            await asyncio.sleep(LOOK_SECONDS)
        return run

    async def _last_step_done(self, services: _Services) -> None:
        """A run that was ended early may still be in a step; the weights after it are what is evaluated."""
        deadline = time.monotonic() + LAST_STEP_SECONDS
        while (status := await services.queue.status()).counts.leased and time.monotonic() < deadline:
            await self._show_training(services.trainer, status)
            await asyncio.sleep(LOOK_SECONDS)

    async def _evaluate(self, children: Children, when: str) -> None:
        """The held-out tasks through the trainer's endpoint, in a process of their own."""
        out, options = self._folder.evaluation(when), self._options
        if not options.eval_tasks or out.exists():
            return
        counted = self._folder.logs / f"evaluation-{when}.progress"
        counted.unlink(missing_ok=True)
        arguments = [
            *("evaluate", options.environment, "--policy", self._trainer_url, "--tasks", str(options.eval_tasks)),
            *("--samples", str(options.eval_samples), "--out", str(out), "--progress", str(counted)),
        ]
        child = await children.start(f"{EVALUATION} {when}", [*arguments, *self._file.arguments()], may_end=True)
        self._enter(f"held-out tasks, {when} training", 0, options.eval_tasks * options.eval_samples)
        await self._finished(children, child, counted)
        if report := self._report(when):
            self._view.say(f"held-out tasks {when} training: success {share(report.success)}, {report.seconds:.0f} s")

    async def _finished(self, children: Children, child: Child, counted: Path) -> None:
        ended = asyncio.create_task(children.finished(child))
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=LOOK_SECONDS)
                self._progress.done = _lines(counted)
                self._draw()
            await ended
        finally:
            ended.cancel()

    async def _show_training(self, trainer: httpx.AsyncClient, status: QueueStatus) -> None:
        progress, now = self._progress, time.monotonic()
        progress.steps = self._records()
        if status.run is not None:
            size = status.run.group_size
            progress.done, progress.total = status.run.step, status.run.total_steps
            progress.rollouts_per_second = self._rollouts.per_second(status.counts.accepted * size, now)
        progress.queued, progress.lost = status.counts.queued, status.counts.lost_trajectories
        progress.playing = sum(one.running for one in status.environments.values())
        with suppress(httpx.HTTPError, ValueError):
            progress.tokens_per_second = self._tokens.per_second(await _generated_tokens(trainer), now)
        self._draw()

    def _http(self) -> httpx.AsyncClient:
        """The trainer's endpoint. Made once: a client costs as much CPU as a hundred requests."""
        token = self._settings.api_token
        headers = {"authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        return httpx.AsyncClient(base_url=self._trainer_url, headers=headers, timeout=2.0, trust_env=False)

    async def _watch(self, children: Children) -> None:
        while True:
            await asyncio.to_thread(self._memory.look, children.pids)
            reap_orphans(children.pids.values())
            await asyncio.sleep(2 * LOOK_SECONDS)

    def _enter(self, phase: str, done: int = 0, total: int = 0) -> None:
        self._progress.phase, self._progress.done, self._progress.total = phase, done, total
        self._draw()

    def _draw(self) -> None:
        self._progress.seconds = time.monotonic() - self._started
        self._view.show(self._progress)

    def _choose_ports(self, file: RunFile) -> tuple[int, int]:
        sections = file.sections()
        wanted_api, wanted_trainer = sections.api.get("port", API_PORT), sections.trainer.get("port", TRAINER_PORT)
        assert isinstance(wanted_api, int)
        assert isinstance(wanted_trainer, int)
        api, trainer = free_ports(HOST, [wanted_api, wanted_trainer])
        for what, wanted, found in ((API, wanted_api, api), (TRAINER, wanted_trainer, trainer)):
            if found != wanted:
                self._view.say(f"port {wanted} is taken: the {what} listens on {found}")
        return api, trainer

    def _with_options(self, file: RunFile) -> RunFile:
        options, (api_port, trainer_port) = self._options, self._ports
        return file.with_flags(
            api__host=HOST,
            api__port=api_port,
            api__database=str(self._folder.database),
            trainer__host=HOST,
            trainer__port=trainer_port,
            trainer__api_url=self._api_url,
            trainer__out=str(self._folder.path),
            trainer__model=options.model,
            trainer__seed=options.seed,
            trainer__inference__seed=options.seed,
            trainer__loop__max_steps=options.steps,
            trainer__groups_per_batch=options.groups_per_batch,
            trainer__group_size=options.group_size,
            rollouts__api_url=self._api_url,
            rollouts__seed=options.seed,
            policy__base_url=self._trainer_url,
        )

    def _records(self) -> list[StepRecord]:
        return since(read_metrics(self._folder.metrics), self._training_since)

    def _plot(self) -> None:
        records = read_metrics(self._folder.metrics)
        if records:
            before, after = self._report("before"), self._report("after")
            plot_rewards(self._folder.plot, records, before.success if before else None, after.success if after else None)

    def _report(self, when: str) -> EvaluationReport | None:
        path = self._folder.evaluation(when)
        return EvaluationReport.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None

    def _summary(self) -> Summary:
        records, groups = self._records(), read_groups(self._folder.groups)
        before, after = self._report("before"), self._report("after")
        return Summary(
            environment=self._options.environment,
            seed=self._options.seed,
            steps=records[-1].step if records else 0,
            seconds=time.monotonic() - self._started,
            training_seconds=self._training_seconds,
            before=figures(before) if before else None,
            after=figures(after) if after else None,
            rollouts=sum(one.rollouts for one in records),
            trained=sum(one.rollouts_trained for one in records),
            dropped=dropped_by_reason(records),
            lost=lost_by_boundary(groups),
            seconds_per_step=seconds_per_step(records, groups),
            rollout_seconds=mean_phases(records),
            tokens_per_second=sampled_tokens_per_second(records),
            peak_mib=self._memory.peaks,
        )


async def _generated_tokens(trainer: httpx.AsyncClient) -> float:
    """The trainer's counter of sampled tokens. Raises httpx.HTTPError, ValueError."""
    text = (await trainer.get("/metrics")).text
    name = "natgym_inference_generated_tokens_total "
    return next((float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)), 0.0)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def tail_of(error: BaseException) -> Sequence[str]:
    """The end of the log of a service that died, where that is what an error is about."""
    if isinstance(error, BaseExceptionGroup):
        return next((tail for inner in error.exceptions if (tail := tail_of(inner))), [])
    return error.tail if isinstance(error, ServiceDied) else []
