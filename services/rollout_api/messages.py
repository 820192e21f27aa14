"""What crosses the rollout API's border, besides ScoredGroup and Update."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from core.types import ScoredGroup, Update, Value

MAX_WAIT_SECONDS = 60.0
MAX_COUNT = 2**53  # fits a database, a float and JavaScript
Name = Field(min_length=1, max_length=200)


class RunStatus(StrEnum):
    """Whether environments should produce."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"


class RunSpec(Value):
    """What a trainer declares of its run. Opening the same id again resumes it."""

    id: str = Name
    groups_per_batch: int = Field(ge=1, le=MAX_COUNT)
    group_size: int = Field(ge=1, le=MAX_COUNT)
    max_staleness: int = Field(default=0, ge=0, le=MAX_COUNT, description="policy versions that a group may be behind")
    total_steps: int = Field(ge=1, le=MAX_COUNT)
    step: int | None = Field(
        default=None, ge=0, le=MAX_COUNT, description="updates done by the checkpoint; None: what is known here"
    )
    policy_version: int | None = Field(default=None, ge=0, le=MAX_COUNT, description="None: what is known here")
    dialect: str = Field(default="v1", min_length=1, max_length=40, description="of the groups that it takes")


class Run(Value):
    """The run as the rollout API knows it; `step` counts the acknowledged updates."""

    id: str
    groups_per_batch: int
    group_size: int
    max_staleness: int
    total_steps: int
    step: int
    policy_version: int
    status: RunStatus
    dialect: str = "v1"


class RunChange(Value):
    """A new status for the run of that id."""

    id: str = Name
    status: RunStatus


class EnvironmentSpec(Value):
    """What an environment declares of itself."""

    group_size: int | None = Field(default=None, ge=1, le=MAX_COUNT, description="None: the run's")
    weight: float = Field(default=1.0, gt=0, description="share of the groups, against the others'")
    min_share: float = Field(default=0.0, ge=0, le=1, description="of the groups, whatever the weights say")


class DemandQuery(Value):
    """The question of one environment server: `running` groups are being made, how many more?"""

    environment: str = Name
    running: int = Field(ge=0, le=1_000_000)
    handed_over: int | None = Field(default=None, ge=0, le=2**53, description="groups whose arrival it was told so far")
    worker: str = Field(default="", max_length=200, description="tells servers of one environment apart")
    wait_seconds: float = Field(default=0.0, ge=0, le=MAX_WAIT_SECONDS)
    run: str = Field(default="", max_length=200, description="for whom; empty: the only run that is open")
    most: int = Field(default=1_000_000, ge=0, le=1_000_000, description="what it has room for; others get the rest")


class PostQuery(Value):
    """Who hands a group over."""

    run: str = Field(default="", max_length=200, description="into whose queue; empty: the only run that is open")
    worker: str = Field(default="", max_length=200, description="tells servers of one environment apart")
    handed_over: int | None = Field(default=None, ge=0, le=2**53, description="groups whose arrival it was told before")


class Demand(Value):
    """How many groups of how many rollouts to start now. `finished`: there will be no more."""

    groups: int
    group_size: int
    policy_version: int
    finished: bool


class Receipt(Value):
    """A group is safe; `first` is False where it already was."""

    id: str
    first: bool


class TakeBatch(Value):
    """A trainer wants that many groups. The same `batch_id` again is the same batch.

    With `refused` it is the same batch without those, filled up to `groups` by others; its lease begins anew.
    """

    batch_id: str = Name
    run: str = Field(default="", max_length=200, description="from whose queue; empty: the only run that is open")
    groups: int = Field(ge=1, le=100_000)
    policy_version: int = Field(ge=0, le=MAX_COUNT)
    max_staleness: int | None = Field(default=None, ge=0, le=MAX_COUNT, description="None: the run's")
    lease_seconds: float = Field(default=600.0, gt=0, le=86_400)
    wait_seconds: float = Field(default=0.0, ge=0, le=MAX_WAIT_SECONDS)
    refused: tuple[Annotated[str, Field(max_length=200)], ...] = Field(
        default=(), max_length=100_000, description="groups of that batch that teach nothing: dropped, others take their place"
    )


class BatchReply(Value):
    """Groups under a lease, oldest policy version first, then in order of arrival."""

    batch_id: str
    groups: tuple[ScoredGroup, ...]


class GroupState(StrEnum):
    """What became of a group."""

    QUEUED = "queued"
    LEASED = "leased"
    TRAINED = "trained"
    DROPPED = "dropped"
    """Staler than the run allows, or left over from a finished run."""
    FAILED = "failed"
    """Without a single scored trajectory."""


class GroupFacts(Value):
    """One group as a listing shows it. Bytes are of the body as it was posted."""

    id: str
    run: str
    environment: str
    policy_version: int
    state: GroupState
    scored: int
    lost: int
    bytes: int
    accepted_at: float
    batch_id: str | None
    dialect: str
    arrival: int


class GroupFilter(Value):
    """Which groups a listing shows, newest first; `before` is the `arrival` of the last one on the page before."""

    run: str | None = None
    environment: str | None = None
    state: GroupState | None = None
    batch_id: str | None = None
    id: str | None = None
    min_policy_version: int | None = Field(default=None, ge=-MAX_COUNT, le=MAX_COUNT)
    max_policy_version: int | None = Field(default=None, ge=-MAX_COUNT, le=MAX_COUNT)
    before: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    limit: int = Field(default=100, ge=1, le=1000)


class GroupPage(Value):
    """A page of a listing. `before` asks for the next one, None where there is none."""

    groups: tuple[GroupFacts, ...]
    before: int | None


class GroupCounts(Value):
    """Groups by what became of them. accepted == queued + leased + trained + dropped + failed."""

    accepted: int = 0
    queued: int = 0
    leased: int = 0
    trained: int = 0
    dropped: int = 0
    """Staler than the run allows, or left over from a finished run."""
    failed: int = 0
    """Without a single scored trajectory."""
    lost_trajectories: int = 0
    """Trajectories of accepted groups that hold a Failure."""
    held_bytes: int = 0
    """Size of what is queued or leased, as it was posted."""


class EnvironmentStatus(Value):
    """One registered environment."""

    weight: float
    group_size: int | None
    running: int
    """Groups that its servers last said to be making."""
    counts: GroupCounts


class QueueStatus(Value):
    """Everything that a progress display wants, of one run: the one asked for, else the one opened last."""

    run: Run | None
    runs: tuple[Run, ...] = ()
    """All of them, in the order in which they were opened."""
    counts: GroupCounts
    environments: dict[str, EnvironmentStatus]
    last_update: Update | None
