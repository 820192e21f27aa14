"""Take groups, learn, publish, checkpoint, acknowledge; and account for every rollout on the way."""

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from pydantic import Field

from core.clock import Clock, SystemClock
from core.config import Config
from core.logs import get_logger
from core.types import ScoredGroup, Update
from trainer.checkpoints import CheckpointStore, Progress, Told
from trainer.engines.base import MODEL_FOLDER
from trainer.learner import Learner, Lesson
from trainer.metrics import Seconds, StepRecord, batch_figures, to_update
from trainer.samples import Admission
from trainer.weights import DirectPublisher, Publisher

log = get_logger("loop")


class Mode(StrEnum):
    """What the environments do while an update runs."""

    ASYNC = "async"
    """They go on sampling with the weights before it."""
    SYNC = "sync"
    """They wait: only groups of the newest policy are learned from."""


class LoopConfig(Config):
    """How long to train, and on how old groups."""

    max_steps: int = Field(default=100, ge=0)
    mode: Mode = Mode.ASYNC
    max_staleness: int = Field(default=4, ge=0, description="policy versions a group may be behind; sync: always 0")
    max_refill: int = Field(default=4, ge=1, description="groups of a step that teach nothing are replaced, 1: never")
    """At most so many times the groups of a batch are looked at for one step; then it learns from what there is.

    Source: dynamic sampling, DAPO, arXiv 2503.14476, section 3.2.
    """

    @property
    def staleness(self) -> int:
        """The bound that is in force."""
        return 0 if self.mode is Mode.SYNC else self.max_staleness


class TakenBatch(NamedTuple):
    """Groups under a lease; they come back to others unless the batch is acknowledged."""

    id: str
    groups: Sequence[ScoredGroup]


class BatchSource(Protocol):
    """Where groups come from: the rollout API, or a list."""

    async def take_batch(self, policy_version: int) -> TakenBatch | None:
        """The next full batch for a trainer of that version; None when none came within the source's own bound."""
        ...

    async def refill(self, batch_id: str, refused: Sequence[str], policy_version: int) -> TakenBatch | None:
        """That batch with other groups in the place of those ids, which are dropped; None when none came in time."""
        ...

    async def acknowledge(self, batch_id: str, update: Update) -> None:
        """That batch is done with and must not come back. Safe to repeat."""
        ...


class Phase(StrEnum):
    """What the loop is doing: the first thing to look at when nothing moves."""

    IDLE = "idle"
    WAITING = "waiting"
    TRAINING = "training"
    PUBLISHING = "publishing"
    CHECKPOINTING = "checkpointing"
    ACKNOWLEDGING = "acknowledging"


class TrainLoop:
    """The training of one run. `progress` and `phase` may be read at any time."""

    def __init__(
        self,
        config: LoopConfig,
        learner: Learner,
        checkpoints: CheckpointStore,
        on_step: Callable[[StepRecord], None] = lambda record: None,
        clock: Clock | None = None,
    ) -> None:
        self.progress = checkpoints.restore(learner.engine) or Progress()
        self.phase = Phase.IDLE
        self._config, self._learner, self._checkpoints, self._on_step = config, learner, checkpoints, on_step
        self._clock: Clock = clock or SystemClock()
        self._stopped = False
        self._checkpoint_seconds = 0.0

    def stop(self) -> None:
        """End after what is being done now, at the latest when the source's next wait ends."""
        self._stopped = True

    def skip_versions(self, known: int) -> None:
        """Number the weights anew where others, up to version `known`, were acknowledged and then lost by a crash.

        What the lost ones sampled is then beyond the bound of staleness, whatever its own number is; one more of them
        may have been published. To be called before `run`.
        """
        if known > self.progress.policy_version:
            version = known + self._config.staleness + 2
            log.warning("versions_lost", restored=self.progress.policy_version, lost=known, goes_on_as=version)
            self.progress = self.progress.model_copy(update={"policy_version": version})

    async def run(self, source: BatchSource, publisher: Publisher) -> Progress:
        """Train until `max_steps` or `stop`. Raises TrainingError, or what source and publisher raise.

        A batch whose step did not end is not acknowledged, so it comes back to whoever trains next.
        """
        await self._publish(publisher)
        waiting_since = self._clock.monotonic()
        while not self._stopped and self.progress.step < self._config.max_steps:
            self.phase = Phase.WAITING
            taken = await source.take_batch(self.progress.policy_version)
            if taken is None:
                log.info("no_batch_yet", seconds=self._clock.monotonic() - waiting_since)
                continue
            taken = await self._refilled(source, taken)
            wait_seconds = self._clock.monotonic() - waiting_since
            update = await self._step(taken, publisher, wait_seconds)
            self.phase = Phase.ACKNOWLEDGING
            await source.acknowledge(taken.id, update)
            waiting_since = self._clock.monotonic()
        if self._checkpoints.newest_step() != self.progress.step:
            await self._checkpoint()
        self.phase = Phase.IDLE
        return self.progress

    async def _refilled(self, source: BatchSource, taken: TakenBatch) -> TakenBatch:
        """All groups that were looked at for this step: as many that teach something as were wanted, where they come."""
        held, looked_at = taken.groups, {group.id: group for group in taken.groups}
        while refused := self._learner.refused(held, self._admission):
            if len(looked_at) + len(refused) > self._config.max_refill * len(taken.groups):
                log.info("batch_not_full", groups=len(held) - len(refused), wanted=len(taken.groups), looked_at=len(looked_at))
                break
            again = await source.refill(taken.id, refused, self.progress.policy_version)
            if self._stopped:
                break
            if again is not None:
                held = again.groups
                looked_at |= {group.id: group for group in held}
        return TakenBatch(taken.id, tuple(looked_at.values()))

    @property
    def _admission(self) -> Admission:
        return Admission(
            oldest_version=self.progress.policy_version - self._config.staleness,
            trained=frozenset(self.progress.trained_groups),
            vocabulary=self._learner.engine.vocabulary,
        )

    async def _step(self, taken: TakenBatch, publisher: Publisher, wait_seconds: float) -> Update:
        before, started = self.progress, self._clock.monotonic()
        self.phase = Phase.TRAINING
        # in a thread of its own, so that the event loop goes on serving; the sampler decodes in another one
        lesson = await asyncio.to_thread(self._learner.learn, taken.groups, self._admission, before.step)
        trained = self._clock.monotonic()
        self.progress = Progress(
            step=before.step + 1,
            policy_version=before.policy_version + (1 if lesson.changed else 0),
            trained_groups=tuple(group.id for group in taken.groups),
        )
        if lesson.changed:
            await self._publish(publisher)
        published = self._clock.monotonic()
        seconds = Seconds(
            wait=wait_seconds,
            train=trained - started,
            publish=published - trained,
            checkpoint=self._checkpoint_seconds,
        )
        record = self._record(taken.groups, before.policy_version, lesson, seconds)
        self._on_step(record)
        if not (self._checkpoints.due(self.progress.step) or self.progress.step >= self._config.max_steps):
            return to_update(record, None)
        update = to_update(record, str(self._checkpoints.path(self.progress.step) / MODEL_FOLDER))
        self.progress = self.progress.model_copy(update={"told": Told(batch_id=taken.id, update=update)})
        await self._checkpoint()
        return update

    async def _publish(self, publisher: Publisher) -> None:
        self.phase = Phase.PUBLISHING
        engine, version = self._learner.engine, self.progress.policy_version
        if isinstance(publisher, DirectPublisher):
            await publisher.publish_from(engine, version)
        else:
            await publisher.publish(await asyncio.to_thread(engine.state_dict), version)

    async def _checkpoint(self) -> None:
        self.phase, started = Phase.CHECKPOINTING, self._clock.monotonic()
        await asyncio.to_thread(self._checkpoints.save, self.progress, self._learner.engine)
        self._checkpoint_seconds = self._clock.monotonic() - started

    def _record(self, groups: Sequence[ScoredGroup], sampled_for: int, lesson: Lesson, seconds: Seconds) -> StepRecord:
        samples = lesson.samples
        record = StepRecord(
            step=self.progress.step,
            policy_version=self.progress.policy_version,
            time=self._clock.now(),
            groups=len(groups),
            rollouts=samples.rollouts,
            rollouts_trained=samples.trained,
            dropped={reason.value: count for reason, count in samples.dropped.items()},
            splits=samples.splits,
            **batch_figures(groups, sampled_for).model_dump(),
            loss=lesson.loss,
            kl=lesson.mean("kl_k3"),
            kl_k1=lesson.mean("kl_k1"),
            entropy=lesson.mean("entropy"),
            grad_norm=lesson.grad_norm,
            clipped_fraction=lesson.mean("clipped"),
            dlogp_mean=lesson.mean("dlogp"),
            dlogp_max=lesson.maximum("dlogp"),
            tokens=lesson.tokens,
            row_tokens=lesson.row_tokens,
            seconds=seconds,
        )
        log.info("step", step=record.step, reward_mean=record.reward_mean, loss=record.loss, dropped=record.dropped)
        return record
