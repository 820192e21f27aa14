"""What every store of the queue fulfils, and the values that it is asked with and answers with.

Layers, top down; a route only speaks to the first:

    queue.GroupQueue    waits, demand, leases' timers, events. `queue.put_group(parcel)`, `queue.take_batch(wanted, ...)`,
                        `queue.frames(lease)`, `queue.acknowledge(batch_id, update)`, `queue.groups(filter)`,
                        `queue.put_note(key, value)`; `queue.snapshot` is the state as of the last commit
    Store (here)        one method for each change; when it returns, the change survives kill -9 and power loss
    ledger              the changes as SQL, one function each, the same for SQLite and PostgreSQL

A second dialect brings routes of its own. Its groups carry its name (`Parcel.dialect`) and its bytes, which the queue
never reads, live in the queue of a run of its own, and are taken with a `choose` of its own where it does not count
in groups. What it has to remember besides goes into notes.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from core.types import Update
from services.rollout_api.messages import (
    EnvironmentSpec,
    GroupCounts,
    GroupFacts,
    GroupFilter,
    Run,
    RunChange,
    RunSpec,
    RunStatus,
    TakeBatch,
)

NATIVE = "v1"
FORGET_SECONDS = 120.0  # an environment server that said nothing for so long has died with what it was making


@dataclass(frozen=True)
class Parcel:
    """One validated group: the facts that the queue needs, and the bytes as they were validated."""

    id: str
    environment: str
    policy_version: int
    scored: int
    lost: int
    body: bytes
    accepted_at: float
    run: str = ""
    """Whose queue; "" is the only run that is open, or the next one to be opened."""
    dialect: str = NATIVE
    digest: bytes = b""
    """`digest_of` the body, where it is known already."""
    digits_at: int = 0
    """From which byte on the body is mostly fractions as text, which are compressed apart; 0: nowhere."""


@dataclass(frozen=True)
class Sealed:
    """A parcel as it is stored: `frame` is the body in zstd, in one frame or two, `digest` 16 bytes of its hash."""

    parcel: Parcel
    frame: bytes
    digest: bytes


@dataclass(frozen=True)
class Limits:
    """How much may be queued or leased before posts are answered with 503, and what is kept of finished groups."""

    max_queued_groups: int
    max_queued_bytes: int
    remembered_groups: int = 100_000
    """So many of the newest groups are known by id when they come again, also when they are done with."""
    kept_payloads: int = 0
    """So many of the newest groups can still be read when they are done with."""


class Head(NamedTuple):
    """A queued group as a batch is chosen from it. `trajectories` counts the scored ones and the lost ones."""

    arrival: int
    id: str
    environment: str
    policy_version: int
    trajectories: int
    bytes: int
    """Of the body."""
    stored: int
    """Of its frame."""
    dialect: str


Choose = Callable[[Sequence[Head]], Sequence[Head] | None]
"""Picks a batch out of the oldest queued groups, oldest first; None where they make no batch yet."""


class Lease(NamedTuple):
    """A batch that was taken: its groups, oldest policy version first, then in order of arrival."""

    batch_id: str
    run: str
    heads: tuple[Head, ...]


class OpenLease(NamedTuple):
    """A batch that somebody holds. Seconds; `expires_at` since 1970."""

    batch_id: str
    length: float
    expires_at: float


@dataclass(frozen=True)
class Snapshot:
    """The state that demand and status are computed from, as of one commit."""

    runs: dict[str, Run] = field(default_factory=dict)
    """In the order in which they were opened."""
    updates: dict[str, str] = field(default_factory=dict)
    """The last Update of each run, as JSON."""
    environments: dict[str, EnvironmentSpec] = field(default_factory=dict)
    counts: dict[tuple[str, str], GroupCounts] = field(default_factory=dict)
    """By run and environment, registered or not."""
    totals: dict[str, GroupCounts] = field(default_factory=dict)
    """By run."""

    def total(self, run: str | None = None) -> GroupCounts:
        """The counts of all environments together, of one run or of all."""
        return add_counts(self.totals.values()) if run is None else self.totals.get(run, GroupCounts())

    def open_runs(self) -> list[Run]:
        """The runs of this dialect that are not finished."""
        return [run for run in self._native_runs() if run.status is not RunStatus.FINISHED]

    def newest_run(self) -> Run | None:
        """The run of this dialect that was opened last, one that is not finished before one that is."""
        return next(reversed(self.open_runs() or self._native_runs()), None)

    def _native_runs(self) -> list[Run]:
        return [run for run in self.runs.values() if run.dialect == NATIVE]


def add_counts(counts: Iterable[GroupCounts]) -> GroupCounts:
    """Field by field."""
    rows = [one.model_dump() for one in counts]
    return GroupCounts(**{name: sum(row[name] for row in rows) for name in GroupCounts.model_fields})


class Event(NamedTuple):
    """Something that happened: kind is group, batch, update, run, environment or worker; `facts` are small and JSON."""

    kind: str
    run: str
    facts: dict[str, str | int | float | None]


class Told(NamedTuple):
    """The last turn that is known now, and what other processes told since the one that was known before, oldest first."""

    turn: int
    others: tuple[Event, ...]


class Listener(Protocol):
    """Who hears of commits, on the event loop, before the callers of that commit go on."""

    def committed(self, snapshot: Snapshot, events: Sequence[Event]) -> None:
        """The state now, and what this process did."""
        ...

    def heard(self, events: Sequence[Event]) -> None:
        """What another process on the same database did."""
        ...


class Store(Protocol):
    """The queue on a disk. `async with store:` starts and ends it; `store.listener` is set before."""

    listener: Listener
    snapshot: Snapshot

    @property
    def commits(self) -> int:
        """Transactions so far; each is one fsync, shared by all that waited."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...

    @property
    def ready(self) -> bool:
        """Whether the store takes work."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes may work on the same queue."""
        ...

    def check_space(self) -> None:
        """Raises StorageFull where there is too little space for more groups."""
        ...

    async def tell(self, event: Event, seen: int | None) -> Told:
        """Let the other processes know what a server makes; its facts say `for`, `environment` and `worker`.

        Where `seen` is a turn and others told something after it, nothing is told: the caller has to decide anew.
        The snapshot is as new as what is returned, at least.
        """
        ...

    async def register_environment(self, name: str, spec: EnvironmentSpec) -> None:
        """Make an environment known, or change what is known of it."""
        ...

    async def open_run(self, spec: RunSpec) -> Run:
        """Start or resume a run; what its trainers had taken is queued again."""
        ...

    async def change_run(self, change: RunChange) -> Run:
        """Pause, continue or finish a run. Raises NotKnown."""
        ...

    async def clear_run(self, run: str) -> int:
        """Forget the run, its groups and its batches; how many groups that were."""
        ...

    def post(self) -> AbstractContextManager[None]:
        """While a post is being read: what is about to be written waits a moment for it, to share the fsync."""
        ...

    async def put_group(self, parcel: Parcel) -> bool:
        """Queue a group; False where it was accepted before. Raises Conflict, QueueFull and StorageFull."""
        ...

    async def take_batch(self, wanted: TakeBatch, now: float, choose: Choose | None = None) -> Lease | None:
        """Lease the oldest groups that are fresh enough, or None where there are too few. Raises Conflict."""
        ...

    async def acknowledge(self, batch_id: str, update: Update | None) -> Run:
        """The update used that batch; None where nothing is known of it. Raises NotKnown and Conflict."""
        ...

    async def return_batch(self, batch_id: str) -> int:
        """End a lease that nobody acknowledged: its groups are queued where they were. How many came back."""
        ...

    async def open_leases(self) -> list[OpenLease]:
        """The batches that somebody holds."""
        ...

    async def read_frames(self, arrivals: Sequence[int]) -> list[bytes]:
        """The zstd frames of those groups, in that order. Raises NotKnown where one is gone."""
        ...

    async def groups(self, wanted: GroupFilter) -> list[GroupFacts]:
        """Facts of groups, newest first."""
        ...

    async def put_note(self, key: str, value: bytes | None) -> None:
        """Remember a value under a key, durably; None forgets it."""
        ...

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """The notes whose key starts so."""
        ...
