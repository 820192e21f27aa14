"""What the Atropos dialect remembers besides groups: its trainer and its environments, as notes beside the queue."""

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field

from core.clock import Clock
from services.rollout_api.base import Snapshot
from services.rollout_api.messages import MAX_COUNT, RunSpec
from services.rollout_api.queue import GroupQueue
from services.rollout_api.refusals import QueueFull

RUN = "atropos"
TRAINER = "atropos/trainer"
ENVIRONMENT = "atropos/environment/"
FORGET_SECONDS = 120.0  # an environment asks for its status ten times a second: one that is silent for so long is gone
MAX_ENVIRONMENTS = 10_000
UNNAMED = "environment"
LEAST_WEIGHT = 0.01  # an environment is never throttled to nothing


class Lenient(BaseModel):
    """A request of a client that may know fields which this server does not."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Registration(Lenient):
    """POST /register. `batch_size` counts sequences, not groups."""

    wandb_group: str
    wandb_project: str
    batch_size: int = Field(ge=1, le=MAX_COUNT)
    max_token_len: int = Field(ge=-MAX_COUNT, le=MAX_COUNT)
    checkpoint_dir: str
    save_checkpoint_interval: int = Field(ge=-MAX_COUNT, le=MAX_COUNT)
    starting_step: int = Field(ge=0, le=MAX_COUNT)
    num_steps: int = Field(ge=-MAX_COUNT, le=MAX_COUNT)


class EnvironmentRequest(Lenient):
    """POST /register-env."""

    max_token_length: int = Field(ge=0, le=MAX_COUNT)
    desired_name: str | None = Field(max_length=200)
    weight: float | None
    group_size: int = Field(ge=1, le=MAX_COUNT)
    min_batch_allocation: float | None = Field(default=None, ge=0)


class EnvId(Lenient):
    """POST /disconnect-env, and the body of GET /status-env."""

    env_id: int = Field(ge=-MAX_COUNT, le=MAX_COUNT)


class Trainer(Lenient):
    """The registration that is in force; `started`: a first batch was asked for."""

    registration: Registration
    started: bool = False


class Environment(Lenient):
    """One environment as it registered."""

    id: int
    name: str
    number: int
    """Environments of that name before it."""
    max_token_length: int
    weight: float
    group_size: int
    min_batch_allocation: float | None
    batch_size: int
    """The trainer's when it registered, 0 where that is not known. It never asks again, and bounds what it makes by this."""
    connected: bool = True

    @property
    def reach(self) -> float:
        """What its weight is a share of."""
        return self.max_token_length * max(0.0, self.weight)


class Sender(NamedTuple):
    """Who sent a group, and how many sequences it has: what the queue counts such groups under."""

    env_id: int | None
    sequences: int

    @property
    def name(self) -> str:
        """As an environment's name in the queue."""
        return f"{RUN}/{'-' if self.env_id is None else self.env_id}/{self.sequences}"

    @classmethod
    def of(cls, name: str) -> Self:
        """The inverse of `name`; a name of the other dialect is of nobody and has no sequences."""
        found = re.fullmatch(rf"{RUN}/(-|-?\d+)/(\d+)", name)
        if found is None:
            return cls(None, 0)
        return cls(None if found[1] == "-" else int(found[1]), int(found[2]))


class Waiting(NamedTuple):
    """What is queued, in sequences."""

    by_environment: Mapping[int | None, int]
    largest_group: Mapping[int | None, int]
    groups: int
    snapshot: Snapshot | None

    @property
    def sequences(self) -> int:
        """Of all environments."""
        return sum(self.by_environment.values())


class AtroposState:
    """Trainer, environments and counts. Read from the queue once; every change is on the disk before it is answered."""

    def __init__(self, queue: GroupQueue, clock: Clock) -> None:
        self._queue, self._clock = queue, clock
        self.trainer: Trainer | None = None
        self.step = 0
        """Batches that the trainer took, the ones on their way included, from its first step on."""
        self.environments: dict[int, Environment] = {}
        self._former: dict[int, Environment] = {}
        self._heard: dict[int, float] = {}
        self._waiting = Waiting({}, {}, 0, None)

    async def load(self) -> None:
        """Read what an earlier process remembered. Every environment counts as heard of until it is silent for long."""
        notes = await self._queue.notes(f"{RUN}/")
        self.step = self._queue.snapshot.runs[RUN].step if RUN in self._queue.snapshot.runs else 0
        for key, value in notes.items():
            if key == TRAINER:
                self.trainer = Trainer.model_validate_json(value)
            else:
                environment = Environment.model_validate_json(value)
                self.environments[environment.id] = environment
                self.hear(environment.id)

    @property
    def batch_size(self) -> int:
        """Sequences of a batch; 0 where no trainer has registered."""
        return self.trainer.registration.batch_size if self.trainer else 0

    async def register(self, registration: Registration) -> None:
        """Take the trainer's settings. A second trainer with the same ones joins; one with others changes them.

        The queue stays as it is. The step is set where `starting_step` is another one than before.
        """
        known = self.trainer
        if known is not None and known.registration == registration and RUN in self._queue.snapshot.runs:
            return
        trainer = Trainer(registration=registration, started=known is not None and known.started)
        moved = known is None or known.registration.starting_step != registration.starting_step
        await self._queue.put_note(TRAINER, trainer.model_dump_json().encode())
        size = registration.batch_size
        run = await self._queue.open_run(
            RunSpec(
                id=RUN,
                dialect=RUN,
                groups_per_batch=size,
                group_size=1,  # groups of one: the number above counts sequences
                max_staleness=MAX_COUNT,
                total_steps=MAX_COUNT,  # its environments end by num_steps, the queue never does
                step=registration.starting_step if moved else None,
            )
        )
        self.trainer, self.step = trainer, run.step

    async def start(self) -> None:
        """The trainer asked for its first batch: environments may begin."""
        if self.trainer is None or self.trainer.started:
            return
        self.trainer = self.trainer.model_copy(update={"started": True})
        await self._queue.put_note(TRAINER, self.trainer.model_dump_json().encode())

    async def add(self, wanted: EnvironmentRequest) -> Environment:
        """A new environment, with an id of its own. Raises QueueFull where there are too many."""
        self._check_room()
        number = sum(one.name == (wanted.desired_name or UNNAMED) for one in self.environments.values())
        environment = self._environment(max(self.environments, default=-1) + 1, wanted, number)
        await self._keep(environment)
        return environment

    async def known(self, env_id: int) -> Environment:
        """The environment of that id. One that outlived what was known of it is taken in again, as far as it is known."""
        self.hear(env_id)
        if env_id not in self.environments:
            self._check_room()
            size = self.waiting().largest_group.get(env_id, 1)
            wanted = EnvironmentRequest(max_token_length=1, desired_name=None, weight=None, group_size=size)
            await self._keep(self._former.get(env_id) or self._environment(env_id, wanted, env_id))
        return self.environments[env_id]

    async def disconnect(self, env_id: int) -> bool:
        """It makes no more groups; False where nobody has that id."""
        environment = self.environments.get(env_id)
        if environment is None:
            return False
        await self._keep(environment.model_copy(update={"connected": False}))
        return True

    async def reset(self) -> None:
        """Forget everything, but for what environments were: those that live on are taken in again as such."""
        self._former = self.environments
        for key in await self._queue.notes(f"{RUN}/"):
            await self._queue.put_note(key, None)
        await self._queue.clear_run(RUN)
        self.trainer, self.step, self.environments, self._heard = None, 0, {}, {}

    def hear(self, env_id: int) -> None:
        """That environment lives."""
        self._heard[env_id] = self._clock.monotonic()

    def live(self) -> list[Environment]:
        """The environments that are connected and were heard of lately."""
        since = self._clock.monotonic() - FORGET_SECONDS
        return [one for one in self.environments.values() if one.connected and self._heard.get(one.id, since) > since]

    def weight_of(self, environment: Environment) -> float:
        """Its share among those that live."""
        total = sum(one.reach for one in self.live())
        return max(LEAST_WEIGHT, environment.reach / total) if total > 0 else 1.0

    def shares(self) -> dict[int, float]:
        """The minimum of a batch that environments asked for, of those that live."""
        return {one.id: one.min_batch_allocation for one in self.live() if one.min_batch_allocation is not None}

    def waiting(self) -> Waiting:
        """What is queued, as of the last commit."""
        snapshot = self._queue.snapshot
        if self._waiting.snapshot is not snapshot:
            sequences: dict[int | None, int] = {}
            largest: dict[int | None, int] = {}
            groups = 0
            for (run, name), counts in snapshot.counts.items():
                sender = Sender.of(name)
                if run == RUN and counts.queued and sender.sequences:
                    groups += counts.queued
                    sequences[sender.env_id] = sequences.get(sender.env_id, 0) + counts.queued * sender.sequences
                    largest[sender.env_id] = max(largest.get(sender.env_id, 1), sender.sequences)
            self._waiting = Waiting(sequences, largest, groups, snapshot)
        return self._waiting

    def _environment(self, env_id: int, wanted: EnvironmentRequest, number: int) -> Environment:
        return Environment(
            id=env_id,
            name=wanted.desired_name or UNNAMED,
            number=number,
            max_token_length=wanted.max_token_length,
            weight=1.0 if wanted.weight is None else wanted.weight,
            group_size=wanted.group_size,
            min_batch_allocation=wanted.min_batch_allocation,
            batch_size=self.batch_size,
        )

    def _check_room(self) -> None:
        if len(self.environments) >= MAX_ENVIRONMENTS:
            raise QueueFull(f"{MAX_ENVIRONMENTS} environments are registered; GET /reset_data forgets them")

    async def _keep(self, environment: Environment) -> None:
        self.environments[environment.id] = environment  # before anything is waited for: ids are given once
        self.hear(environment.id)
        await self._queue.put_note(f"{ENVIRONMENT}{environment.id}", environment.model_dump_json().encode())
