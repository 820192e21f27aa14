"""Every change of the queue, one function each, over one SQLite connection inside a transaction.

A function either changes everything that it says or raises a Refusal before it changes anything. It can be run a
second time from the start, so a transaction that did not commit is simply repeated. Times are seconds since 1970.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from core.types import Update
from services.rollout_api.messages import EnvironmentSpec, GroupCounts, Run, RunChange, RunSpec, RunStatus, TakeBatch
from services.rollout_api.refusals import Conflict, NotKnown, QueueFull

FINAL_STATES = ("trained", "dropped", "failed")
FORGET_EVERY = 64  # groups; looking at each post would cost more than the rows


@dataclass(frozen=True)
class Parcel:
    """One validated group as it is kept: the facts that the queue needs, and the bytes."""

    id: str
    environment: str
    policy_version: int
    scored: int
    lost: int
    digest: bytes
    body: bytes
    accepted_at: float


@dataclass(frozen=True)
class Limits:
    """How much may be queued or leased before posts are answered with 503, and how long ids are known."""

    max_queued_groups: int
    max_queued_bytes: int
    remembered_groups: int = 100_000
    """So many of the newest groups are known by id when they come again, also when they are done with."""


class Lease(NamedTuple):
    """A batch that was taken: raw groups in order of arrival."""

    batch_id: str
    bodies: tuple[bytes, ...]


@dataclass(frozen=True)
class Snapshot:
    """The state that demand and status are computed from, as of one commit."""

    run: Run | None
    last_update: str | None
    environments: dict[str, EnvironmentSpec]
    counts: dict[str, GroupCounts]
    """By environment, registered or not."""
    reusable_bytes: int = 0
    """Room inside the file that finished groups have left."""

    @property
    def total(self) -> GroupCounts:
        """The counts of all environments together."""
        return add_counts(self.counts.values())


def add_counts(counts: Iterable[GroupCounts]) -> GroupCounts:
    """Field by field."""
    rows = [one.model_dump() for one in counts]
    return GroupCounts(**{name: sum(row[name] for row in rows) for name in GroupCounts.model_fields})


def read_snapshot(db: sqlite3.Connection) -> Snapshot:
    """The state now; costs nothing that grows with the queue."""
    fields: dict[str, dict[str, int]] = {}
    for environment, state, groups, size, lost in db.execute("SELECT environment, state, groups, bytes, lost FROM counts"):
        row = fields.setdefault(environment, dict.fromkeys(GroupCounts.model_fields, 0))
        row[state] += groups
        row["accepted"] += groups
        row["lost_trajectories"] += lost
        row["held_bytes"] += 0 if state in FINAL_STATES else size
    environments = {
        name: EnvironmentSpec(group_size=size, weight=weight)
        for name, size, weight in db.execute("SELECT name, group_size, weight FROM environments ORDER BY name")
    }
    update = db.execute("SELECT last_update FROM run").fetchone()
    counts = {name: GroupCounts(**row) for name, row in fields.items()}
    free_pages = db.execute("PRAGMA freelist_count").fetchone()[0]
    page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
    return Snapshot(read_run(db), update[0] if update else None, environments, counts, free_pages * page_bytes)


def read_run(db: sqlite3.Connection) -> Run | None:
    """The run, where a trainer has opened one."""
    names = ", ".join(Run.model_fields)
    row = db.execute(f"SELECT {names} FROM run").fetchone()  # noqa: S608 our own column names
    return Run(**dict(zip(Run.model_fields, row, strict=True))) if row else None


def register_environment(db: sqlite3.Connection, name: str, spec: EnvironmentSpec) -> None:
    """Make the environment known, or change what is known of it."""
    db.execute("INSERT OR REPLACE INTO environments VALUES (?, ?, ?)", (name, spec.group_size, spec.weight))


def open_run(db: sqlite3.Connection, spec: RunSpec) -> Run:
    """Start that run, or resume it: what its last trainer had taken is queued again.

    Another run is replaced when it is finished, and its leftover groups are dropped. Raises Conflict while it is not.
    """
    known = read_run(db)
    if known is not None and known.id != spec.id and known.status is not RunStatus.FINISHED:
        raise Conflict(f"run {known.id!r} is {known.status.value}: finish it before {spec.id!r}, or use another database")
    same = known if known is not None and known.id == spec.id else None
    # whoever held a lease is gone, and must not acknowledge it into this run any more
    db.execute("UPDATE batches SET state = 'void' WHERE state IN ('leased', 'expired')")
    db.execute("UPDATE groups SET state = 'queued' WHERE state = 'leased'")
    if known is not None and same is None:
        db.execute("UPDATE groups SET state = 'dropped' WHERE state = 'queued'")
    step = spec.step if spec.step is not None else (same.step if same else 0)
    version = spec.policy_version if spec.policy_version is not None else (same.policy_version if same else 0)
    status = RunStatus.FINISHED if step >= spec.total_steps else RunStatus.RUNNING
    run = Run(**spec.model_dump(exclude={"step", "policy_version"}), step=step, policy_version=version, status=status)
    if same is None:
        db.execute("DELETE FROM run")
    columns = ", ".join(Run.model_fields)
    changes = ", ".join(f"{name} = excluded.{name}" for name in Run.model_fields)
    values = ", ".join(f":{name}" for name in Run.model_fields)
    db.execute(
        f"INSERT INTO run (only, {columns}) VALUES (1, {values}) ON CONFLICT DO UPDATE SET {changes}",  # noqa: S608
        run.model_dump(mode="json"),
    )
    return run


def change_run(db: sqlite3.Connection, change: RunChange) -> Run:
    """Pause, continue or finish the run. Raises NotKnown."""
    run = read_run(db)
    if run is None or run.id != change.id:
        raise NotKnown(f"no run {change.id!r}; known: {run.id if run else 'none'}")
    db.execute("UPDATE run SET status = ?", (change.status.value,))
    return run.model_copy(update={"status": change.status})


def accept_group(db: sqlite3.Connection, parcel: Parcel, limits: Limits) -> bool:
    """Queue a group, and True; False where that id was accepted before.

    A group without a scored trajectory is counted and not queued. Raises Conflict for an id with other content
    and QueueFull.
    """
    known = db.execute("SELECT digest FROM groups WHERE id = ?", (parcel.id,)).fetchone()
    if known is not None:
        if known[0] != parcel.digest:
            raise Conflict(f"group {parcel.id!r} was accepted before with other content")
        return False
    useful = parcel.scored > 0
    if useful:
        _check_room(db, len(parcel.body), limits)
    cursor = db.execute(
        "INSERT INTO groups (id, environment, policy_version, state, digest, bytes, lost, accepted_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            parcel.id,
            parcel.environment,
            parcel.policy_version,
            "queued" if useful else "failed",
            parcel.digest,
            len(parcel.body),
            parcel.lost,
            parcel.accepted_at,
        ),
    )
    arrival = cursor.lastrowid or 0
    if useful:
        db.execute("INSERT INTO payloads VALUES (?, ?)", (arrival, parcel.body))
    if arrival % FORGET_EVERY == 0:
        forget_finished(db, limits.remembered_groups)
    return True


def forget_finished(db: sqlite3.Connection, remembered: int) -> None:
    """Delete the groups and batches that are done with, all but the newest so many of each. The counts stay."""
    newest = "SELECT max(arrival) FROM groups"
    states = ", ".join("?" for _ in FINAL_STATES)
    db.execute(f"DELETE FROM groups WHERE arrival <= ({newest}) - ? AND state IN ({states})", (remembered, *FINAL_STATES))  # noqa: S608
    db.execute("DELETE FROM batches WHERE rowid <= (SELECT max(rowid) FROM batches) - ? AND state <> 'leased'", (remembered,))


def drop_stale(db: sqlite3.Connection, policy_version: int, max_staleness: int) -> int:
    """Drop the queued groups that are more than `max_staleness` versions behind; how many that were."""
    oldest = policy_version - max_staleness
    return db.execute("UPDATE groups SET state = 'dropped' WHERE state = 'queued' AND policy_version < ?", (oldest,)).rowcount


def take_batch(db: sqlite3.Connection, wanted: TakeBatch, now: float) -> Lease | None:
    """Lease the oldest groups to the caller, or None where there are too few that are fresh enough.

    The id of a batch that is still leased gives that batch again. Raises Conflict for one that was acknowledged or
    has expired, and where no run says what is too stale.
    """
    known = db.execute("SELECT state FROM batches WHERE id = ?", (wanted.batch_id,)).fetchone()
    if known is not None:
        if known[0] != "leased":
            raise Conflict(f"batch {wanted.batch_id!r} is {known[0]}: take another one")
        return Lease(wanted.batch_id, _bodies(db, wanted.batch_id))
    run = read_run(db)
    if run is None:
        raise Conflict("no run is open: POST /v1/run first")
    drop_stale(db, wanted.policy_version, run.max_staleness if wanted.max_staleness is None else wanted.max_staleness)
    oldest = "SELECT arrival FROM groups WHERE state = 'queued' ORDER BY arrival LIMIT ?"
    arrivals = [row[0] for row in db.execute(oldest, (wanted.groups,))]
    if len(arrivals) < wanted.groups:
        return None
    db.execute(
        "INSERT INTO batches VALUES (?, 'leased', ?, ?, ?)",
        (wanted.batch_id, wanted.groups, wanted.lease_seconds, now + wanted.lease_seconds),
    )
    db.executemany(
        "UPDATE groups SET state = 'leased', batch_id = ? WHERE arrival = ?",
        [(wanted.batch_id, arrival) for arrival in arrivals],
    )
    return Lease(wanted.batch_id, _bodies(db, wanted.batch_id))


def return_batch(db: sqlite3.Connection, batch_id: str) -> int:
    """End a lease that nobody acknowledged: its groups are queued where they were. How many came back."""
    ended = db.execute("UPDATE batches SET state = 'expired' WHERE id = ? AND state = 'leased'", (batch_id,)).rowcount
    if not ended:
        return 0
    return db.execute("UPDATE groups SET state = 'queued' WHERE batch_id = ? AND state = 'leased'", (batch_id,)).rowcount


def acknowledge(db: sqlite3.Connection, batch_id: str, update: Update) -> Run:
    """The update used that batch: its groups are done and the run is one step further.

    A second time changes nothing. An expired lease still counts while nobody else has taken one of its groups.
    Raises NotKnown and Conflict.
    """
    known = db.execute("SELECT state, groups FROM batches WHERE id = ?", (batch_id,)).fetchone()
    run = read_run(db)
    if known is None or run is None:
        raise NotKnown(f"no batch {batch_id!r} was taken")
    state, groups = known
    if state == "acknowledged":
        return run
    if state == "void":
        raise Conflict(f"batch {batch_id!r} went back when the run was opened again")
    still_its_own = db.execute("SELECT count(*) FROM groups WHERE batch_id = ?", (batch_id,)).fetchone()[0]
    if still_its_own < groups:
        raise Conflict(f"the lease of batch {batch_id!r} ended and another trainer has taken its groups")
    db.execute("UPDATE batches SET state = 'acknowledged' WHERE id = ?", (batch_id,))
    db.execute("UPDATE groups SET state = 'trained' WHERE batch_id = ? AND state IN ('leased', 'queued')", (batch_id,))
    step = run.step + 1
    status = RunStatus.FINISHED if step >= run.total_steps else run.status
    db.execute(
        "UPDATE run SET step = ?, policy_version = ?, status = ?, last_update = ?",
        (step, update.policy_version, status.value, update.model_dump_json()),
    )
    return run.model_copy(update={"step": step, "policy_version": update.policy_version, "status": status})


def open_leases(db: sqlite3.Connection) -> list[tuple[str, float, float]]:
    """Batches that somebody holds: id, length of the lease in seconds, and when it ends."""
    return db.execute("SELECT id, lease_seconds, expires_at FROM batches WHERE state = 'leased'").fetchall()


def _check_room(db: sqlite3.Connection, size: int, limits: Limits) -> None:
    held = db.execute("SELECT sum(groups), sum(bytes) FROM counts WHERE state IN ('queued', 'leased')").fetchone()
    groups, held_bytes = held[0] or 0, held[1] or 0
    if groups >= limits.max_queued_groups:
        raise QueueFull(f"{groups} groups are queued or leased, {limits.max_queued_groups} are allowed")
    if held_bytes + size > limits.max_queued_bytes:
        raise QueueFull(f"{held_bytes} bytes are queued or leased, {limits.max_queued_bytes} are allowed")


def _bodies(db: sqlite3.Connection, batch_id: str) -> tuple[bytes, ...]:
    rows = db.execute(
        "SELECT body FROM groups JOIN payloads USING (arrival) WHERE batch_id = ? AND state = 'leased' ORDER BY arrival",
        (batch_id,),
    )
    return tuple(row[0] for row in rows)
