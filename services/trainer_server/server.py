"""One process, two jobs: the training loop and the endpoint that serves what it trains.

Both share an event loop; decoding and training have a thread each. The endpoint answers from the start, also while
there is no rollout API yet.
"""

import asyncio
import math
import signal
import socket
from contextlib import suppress
from functools import partial
from os import environ
from pathlib import Path
from uuid import uuid4

import uvicorn
from pydantic import SecretStr

from core.errors import ConfigError, QueueError
from core.files import write_whole
from core.logs import get_logger
from services.bind import BearerAuth, check_bind, claim_socket, make_server, signals_end, url_of
from services.heap import settle_heap
from services.ready import wait_until_ready
from services.rollout_api.messages import RunSpec
from services.sdk.rollout_client import RolloutClient
from services.trainer_server.config import TrainerServerConfig
from services.trainer_server.source import ApiSource
from services.trainer_server.watch import watchdog
from tool_call_parsers.base import PARSERS
from tool_call_parsers.rendering import Renderer
from trainer.checkpoints import CheckpointStore
from trainer.config import make_checkpoints, make_learner
from trainer.engines.base import MODEL_FOLDER, Engine
from trainer.engines.tinker_engine import TinkerEngine
from trainer.inference.base import InferenceEngine
from trainer.inference.external import ExternalEngine
from trainer.inference.local_engine import LocalEngine
from trainer.inference.openai_server import create_app
from trainer.inference.tinker_sampler import TinkerSampler
from trainer.loop import TrainLoop
from trainer.metrics import MetricsFile, StepRecord
from trainer.reporters import REPORTERS, Reporter

log = get_logger("trainer_server")


class Trainer:
    """The parts of one training run, wired together."""

    def __init__(self, config: TrainerServerConfig, token: SecretStr | None, rollout_token: SecretStr | None) -> None:
        self._config, self._rollout_token = config, rollout_token
        self._run_id = run_id(config.out)
        checkpoints = make_checkpoints(config)
        learner = self._learner = make_learner(config)
        self._loop = TrainLoop(config.loop, learner, checkpoints, self._report)
        done = self._loop.progress.step
        self._reporters: list[MetricsFile | Reporter] = [MetricsFile(config.out / "metrics.jsonl", done)]
        self._reporters += [REPORTERS.load(name)(config.out, self._run_id, done) for name in config.report_to]
        renderer = Renderer.from_directory(config.model)
        newest = _newest_model(checkpoints, config.model)
        self._engine = _make_engine(config, learner.engine, newest, renderer, self._loop.progress.policy_version)
        parser = PARSERS.load(config.parser)()
        app = create_app(self._engine, renderer, parser, model_id=config.model_id, model_path=str(config.model.resolve()))
        self.app = BearerAuth(app, token)

    async def serve(self, server: uvicorn.Server, sock: socket.socket) -> None:
        """Train and serve until the server is told to end; raises what ended the training."""
        training = asyncio.create_task(self._train(), name="training")
        training.add_done_callback(partial(_end_on_error, server))
        watching = asyncio.create_task(watchdog(self._config, self._loop, self._engine, self._rollout_token).run())
        try:
            await server.serve(sockets=[sock])
        finally:
            watching.cancel()
            training.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await training
            finally:
                await self._engine.aclose()
                self._learner.engine.close()
                for reporter in self._reporters:
                    reporter.close()

    def _report(self, record: StepRecord) -> None:
        for reporter in self._reporters:
            reporter.write(record)

    async def _train(self) -> None:
        config = self._config
        await wait_until_ready(f"{config.api_url}/ready", "the rollout API")
        async with RolloutClient(config.api_url, self._rollout_token, retry_seconds=math.inf) as client:
            await self._settle(client)
            done = self._loop.progress
            spec = RunSpec(
                id=self._run_id,
                groups_per_batch=config.groups_per_batch,
                group_size=config.group_size,
                max_staleness=config.loop.staleness,
                total_steps=config.loop.max_steps,
                step=done.step,
                policy_version=done.policy_version,
            )
            run = await client.open_run(spec)
            log.info("training", run=run.id, step=run.step, total_steps=run.total_steps)
            progress = await self._loop.run(ApiSource(client, config, self._loop.stop), self._engine)
            log.info("trained", run=run.id, step=progress.step, serving="until SIGTERM")

    async def _settle(self, client: RolloutClient) -> None:
        """Make up for what a crash left open: an acknowledgement after the checkpoint, versions that only the queue knows."""
        if (told := self._loop.progress.told) is not None:
            try:
                await client.acknowledge(told.batch_id, told.update)
            except QueueError as error:  # another queue, or the batch has gone back: its groups are known as learned from
                log.info("not_acknowledged", batch=told.batch_id, problem=str(error))
        known = (run.policy_version for run in (await client.status()).runs if run.id == self._run_id)
        self._loop.skip_versions(next(known, 0))


def serve_trainer(
    config: TrainerServerConfig,
    token: SecretStr | None = None,
    rollout_token: SecretStr | None = None,
    *,
    resume: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT; prints one line once it listens.

    Raises ConfigError (address without a token, a directory that holds a run already), PortInUse, TrainingError.
    """
    rank = int(environ["RANK"]) if "TORCHELASTIC_RUN_ID" in environ else 0
    if rank > 0:
        follow(config, rank)
        return
    check_bind(config.host, token)
    if not resume and make_checkpoints(config).newest_step() is not None:
        raise ConfigError(f"{config.out} holds a run already: go on with it by --resume, or choose another folder")
    with claim_socket(config.host, config.port) as sock:
        trainer = Trainer(config, token, rollout_token or token)
        server = make_server(trainer.app)
        settle_heap()
        print(f"trainer      {url_of(sock)}  {config.model} -> {config.out}", flush=True)  # noqa: T201 the command's result
        with signals_end(server), asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(trainer.serve(server, sock))


def follow(config: TrainerServerConfig, rank: int) -> None:
    """What process `rank` of torchrun does: its part of every step, until process 0 has ended.

    Raises ConfigError for an engine that is one process.
    """
    from trainer.engines.fsdp_engine import FsdpEngine

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # process 0 is told as well, ends what it does and then lets go
    engine = make_learner(config).engine
    if not isinstance(engine, FsdpEngine):
        raise ConfigError(f"torchrun: the engine {config.engine.name!r} is one process; --set trainer.engine.name=fsdp")
    log.info("follows", rank=rank)
    engine.follow()


def run_id(out: Path) -> str:
    """The name of the run in that directory, the same whenever it is resumed."""
    file = out / "run_id"
    if not file.exists():
        write_whole(file, f"{out.resolve().name}-{uuid4().hex[:8]}\n")
    return file.read_text(encoding="utf-8").strip()


def _make_engine(
    config: TrainerServerConfig, trained: Engine, newest: Path, renderer: Renderer, version: int
) -> InferenceEngine:
    """Who samples for this run, with its newest weights."""
    if isinstance(trained, TinkerEngine):
        return TinkerSampler(trained, renderer.decode, version=version)
    if config.external is None:
        return LocalEngine.load(newest, config.inference, decode=renderer.decode, version=version)
    # what these servers hold is unknown until the loop publishes: counted as the oldest version, never as the newest
    return ExternalEngine(config.external, config.model, version=0, adapters=config.learns_an_adapter)


def _newest_model(checkpoints: CheckpointStore, start: Path) -> Path:
    found = checkpoints.all()
    return found[-1] / MODEL_FOLDER if found else start


def _end_on_error(server: uvicorn.Server, training: asyncio.Task[None]) -> None:
    if not training.cancelled() and training.exception() is not None:
        server.should_exit = True
