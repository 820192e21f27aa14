"""Every change of the queue, one function each, inside a transaction of SQLite or PostgreSQL.

A function either changes everything that it says or raises a Refusal before it changes anything. It can be run a
second time from the start, so a transaction that did not commit is simply repeated. Times are seconds since 1970.
"""

from collections.abc import Sequence

from core.types import Update
from services.rollout_api.base import Choose, Head, Lease, OpenLease, Sealed
from services.rollout_api.database import Database
from services.rollout_api.ledger_runs import queue_of, read_run
from services.rollout_api.messages import GroupFacts, GroupFilter, GroupState, Run, RunStatus, TakeBatch
from services.rollout_api.refusals import Conflict, NotKnown, QueueFull
from services.rollout_api.transaction import FINAL_STATES, Amount, Place, Transaction

FORGET_EVERY = 64  # groups; looking at each post would cost more than the rows
WINDOW = 4096  # queued groups that a batch is chosen from, where it is not simply the oldest
HEAD = "arrival, id, environment, policy_version, scored + lost, bytes, stored, dialect"
FACTS = ", ".join(GroupFacts.model_fields)
FINAL = ", ".join(f"'{state.value}'" for state in FINAL_STATES)


def put_group(t: Transaction, sealed: Sealed) -> bool:
    """Queue a group, and True; False where that id was accepted before.

    A group without a scored trajectory is counted and not queued. Raises Conflict for an id with other content
    and QueueFull.
    """
    parcel = sealed.parcel
    known = t.db.rows("SELECT digest FROM groups WHERE id = %s", (parcel.id,))
    if known:
        return _first_again(parcel.id, known[0][0], sealed.digest)
    run = queue_of(t, parcel.run)
    state = GroupState.QUEUED if parcel.scored > 0 else GroupState.FAILED
    if state is GroupState.QUEUED:
        _check_room(t, len(parcel.body))
    row = (
        parcel.id, run, parcel.environment, parcel.dialect, parcel.policy_version, state.value, sealed.digest,
        len(parcel.body), len(sealed.frame), parcel.scored, parcel.lost, parcel.accepted_at,
    )  # fmt: skip
    added = t.db.rows(
        "INSERT INTO groups (id, run, environment, dialect, policy_version, state, digest, bytes, stored, scored, lost,"
        " accepted_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING RETURNING arrival",
        row,
    )
    if not added:  # another process was faster
        known = t.db.rows("SELECT digest FROM groups WHERE id = %s", (parcel.id,))
        return _first_again(parcel.id, known[0][0], sealed.digest)
    arrival = added[0][0]
    if state is GroupState.QUEUED or t.limits.kept_payloads:
        t.db.payloads.put(arrival, sealed.frame)
    t.count(Place(run, parcel.environment, state.value), Amount(1, len(parcel.body), parcel.lost))
    t.tell("group", run, id=parcel.id, environment=parcel.environment, policy_version=parcel.policy_version, state=state.value)
    if arrival % FORGET_EVERY == 0:
        forget_finished(t)
    return True


def _first_again(name: str, digest: bytes, found: bytes) -> bool:
    if bytes(digest) != found:
        raise Conflict(f"group {name!r} was accepted before with other content")
    return False


def _check_room(t: Transaction, size: int) -> None:
    held, limits = t.held, t.limits
    if held.groups >= limits.max_queued_groups:
        raise QueueFull(f"{held.groups} groups are queued or leased, {limits.max_queued_groups} are allowed")
    if held.bytes + size > limits.max_queued_bytes:
        raise QueueFull(f"{held.bytes} bytes are queued or leased, {limits.max_queued_bytes} are allowed")


def forget_finished(t: Transaction) -> None:
    """Delete the groups and batches that are done with, all but the newest so many of each. The counts stay."""
    remembered, newest = t.limits.remembered_groups, _newest(t)
    t.db.run(f"DELETE FROM groups WHERE arrival <= %s AND state IN ({FINAL})", (newest - remembered,))  # noqa: S608 our own states
    if t.limits.kept_payloads:  # else each goes when its group is done with
        forget_payloads(t)
    last = (t.db.rows("SELECT max(taken) FROM batches")[0][0]) or 0
    t.db.run("DELETE FROM batches WHERE taken <= %s AND state <> 'leased'", (last - remembered,))


def forget_payloads(t: Transaction) -> None:
    """Delete the payloads of groups that are done with, all but the newest that are kept."""
    waiting = f"SELECT 1 FROM groups WHERE groups.arrival = payloads.arrival AND state NOT IN ({FINAL})"  # noqa: S608 our own states
    t.db.payloads.drop_where(f"arrival <= %s AND NOT EXISTS ({waiting})", (_newest(t) - t.limits.kept_payloads,))


def give_up(t: Transaction, arrival: int) -> None:
    """The disk has lost the content of a group: it is dropped, and no batch waits for it."""
    for state in (GroupState.QUEUED, GroupState.LEASED):
        t.move(state, GroupState.DROPPED, "arrival = %s", (arrival,))


def take_batch(t: Transaction, wanted: TakeBatch, now: float, choose: Choose | None = None) -> Lease | None:
    """Lease the oldest groups to the caller, or None where there are too few that are fresh enough.

    The id of a batch that is still leased gives that batch again, filled up where some of it is refused. Raises
    Conflict for one that was acknowledged or has expired, and where no run says what is too stale.
    """
    known = t.db.rows(f"SELECT state, run FROM batches WHERE id = %s{t.db.row_lock}", (wanted.batch_id,))  # noqa: S608
    if known:
        state, name = known[0]
        if state != "leased":
            raise Conflict(f"batch {wanted.batch_id!r} is {state}: take another one")
        if wanted.refused and not _refill(t, wanted, name, now):
            return None
        return Lease(wanted.batch_id, name, _held(t.db, wanted.batch_id))
    run = read_run(t.db, queue_of(t, wanted.run))
    if run is None:
        raise Conflict(f"no run {wanted.run!r} is open: POST /v1/run first".replace(" ''", ""))
    queued = _fresh(t, wanted, run, wanted.groups if choose is None else WINDOW)
    heads = (queued if len(queued) >= wanted.groups else None) if choose is None else choose(queued)
    if not heads:
        return None
    t.db.run(
        "INSERT INTO batches (id, run, state, groups, lease_seconds, expires_at) VALUES (%s, %s, 'leased', %s, %s, %s)",
        (wanted.batch_id, run.id, len(heads), wanted.lease_seconds, now + wanted.lease_seconds),
    )
    _lease(t, wanted, run.id, heads)
    return Lease(wanted.batch_id, run.id, tuple(heads))


def _refill(t: Transaction, wanted: TakeBatch, name: str, now: float) -> bool:
    """Drop what the trainer refused of its batch and fill it up; False, and only dropped, where too few are queued."""
    for refused in wanted.refused:
        t.move(GroupState.LEASED, GroupState.DROPPED, "batch_id = %s AND id = %s", (wanted.batch_id, refused))
    t.db.run("UPDATE groups SET batch_id = NULL WHERE batch_id = %s AND state = 'dropped'", (wanted.batch_id,))
    run, held = read_run(t.db, name), len(_held(t.db, wanted.batch_id))
    assert run is not None, "a batch that is leased has a run"
    missing = max(0, wanted.groups - held)
    heads = _fresh(t, wanted, run, missing) if missing else ()
    filled = len(heads) >= missing
    if filled:
        _lease(t, wanted, name, heads)
    t.db.run(
        "UPDATE batches SET groups = %s, lease_seconds = %s, expires_at = %s WHERE id = %s",
        (held + filled * len(heads), wanted.lease_seconds, now + wanted.lease_seconds, wanted.batch_id),
    )
    return filled


def _fresh(t: Transaction, wanted: TakeBatch, run: Run, limit: int) -> tuple[Head, ...]:
    """The oldest queued groups that are not too stale; those that are, are dropped."""
    staleness = run.max_staleness if wanted.max_staleness is None else wanted.max_staleness
    oldest = wanted.policy_version - staleness
    t.move(GroupState.QUEUED, GroupState.DROPPED, "run = %s AND policy_version < %s", (run.id, oldest))
    return _heads(t.db, "run = %s AND state = 'queued'", (run.id,), f"LIMIT {limit}{t.db.skip_locked}")


def _lease(t: Transaction, wanted: TakeBatch, run: str, heads: Sequence[Head]) -> None:
    arrivals = [(wanted.batch_id, head.arrival) for head in heads]
    t.db.run_many("UPDATE groups SET batch_id = %s WHERE arrival = %s", arrivals)
    t.move(GroupState.QUEUED, GroupState.LEASED, "batch_id = %s", (wanted.batch_id,))
    t.tell("batch", run, id=wanted.batch_id, state="leased", groups=len(heads))


def return_batch(t: Transaction, batch_id: str) -> int:
    """End a lease that nobody acknowledged: its groups are queued where they were. How many came back."""
    ended = t.db.rows("UPDATE batches SET state = 'expired' WHERE id = %s AND state = 'leased' RETURNING run", (batch_id,))
    if not ended:
        return 0
    groups = len(t.move(GroupState.LEASED, GroupState.QUEUED, "batch_id = %s", (batch_id,)))
    t.tell("batch", ended[0][0], id=batch_id, state="expired", groups=groups)
    return groups


def acknowledge(t: Transaction, batch_id: str, update: Update | None) -> Run:
    """The update used that batch: its groups are done and the run is one step further.

    A second time changes nothing. An expired lease still counts while nobody else has taken one of its groups.
    Raises NotKnown and Conflict.
    """
    known = t.db.rows(f"SELECT state, groups, run FROM batches WHERE id = %s{t.db.row_lock}", (batch_id,))  # noqa: S608
    run = read_run(t.db, known[0][2], t.db.row_lock) if known else None
    if run is None:
        raise NotKnown(f"no batch {batch_id!r} was taken")
    state, groups, _ = known[0]
    if state == "acknowledged":
        return run
    if state == "void":
        raise Conflict(f"batch {batch_id!r} went back when the run was opened again")
    still_its_own = t.db.rows(f"SELECT arrival FROM groups WHERE batch_id = %s{t.db.row_lock}", (batch_id,))  # noqa: S608
    if len(still_its_own) < groups:
        raise Conflict(f"the lease of batch {batch_id!r} ended and another trainer has taken its groups")
    t.db.run("UPDATE batches SET state = 'acknowledged' WHERE id = %s", (batch_id,))
    for old in (GroupState.LEASED, GroupState.QUEUED):
        t.move(old, GroupState.TRAINED, "batch_id = %s", (batch_id,))
    return _step(t, run, batch_id, update)


def _step(t: Transaction, run: Run, batch_id: str, update: Update | None) -> Run:
    version = run.policy_version + 1 if update is None else update.policy_version
    step = run.step + 1
    status = RunStatus.FINISHED if step >= run.total_steps else run.status
    t.db.run(
        "UPDATE runs SET step = %s, policy_version = %s, status = %s, last_update = %s WHERE id = %s",
        (step, version, status.value, update.model_dump_json() if update else None, run.id),
    )
    t.rewritten = True
    t.tell("batch", run.id, id=batch_id, state="acknowledged")
    t.tell("update", run.id, step=step, policy_version=version, loss=update.loss if update else None, status=status.value)
    return run.model_copy(update={"step": step, "policy_version": version, "status": status})


def open_leases(db: Database) -> list[OpenLease]:
    """The batches that somebody holds."""
    rows = db.rows("SELECT id, lease_seconds, expires_at FROM batches WHERE state = 'leased'")
    return [OpenLease(*row) for row in rows]


def read_frames(db: Database, arrivals: Sequence[int]) -> list[bytes]:
    """The zstd frames of those groups, in that order. Raises NotKnown where one is gone, and Damaged."""
    return db.payloads.read(arrivals)


def read_groups(db: Database, wanted: GroupFilter) -> list[GroupFacts]:
    """Facts of groups, newest first."""
    conditions = {
        "run = %s": wanted.run,
        "environment = %s": wanted.environment,
        "state = %s": wanted.state.value if wanted.state else None,
        "batch_id = %s": wanted.batch_id,
        "id = %s": wanted.id,
        "policy_version >= %s": wanted.min_policy_version,
        "policy_version <= %s": wanted.max_policy_version,
        "arrival < %s": wanted.before,
    }
    asked = {condition: value for condition, value in conditions.items() if value is not None}
    where = " AND ".join(asked) or "1 = 1"
    sql = f"SELECT {FACTS} FROM groups WHERE {where} ORDER BY arrival DESC LIMIT {wanted.limit}"  # noqa: S608 no caller's text
    rows = db.rows(sql, tuple(asked.values()))
    return [GroupFacts(**dict(zip(GroupFacts.model_fields, row, strict=True))) for row in rows]


def put_note(t: Transaction, key: str, value: bytes | None) -> None:
    """Remember a value under a key; None forgets it."""
    if value is None:
        t.db.run("DELETE FROM notes WHERE key = %s", (key,))
    else:
        t.db.run(
            "INSERT INTO notes (key, value) VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )


def read_notes(db: Database, prefix: str) -> dict[str, bytes]:
    """The notes whose key starts so."""
    return {key: bytes(value) for key, value in db.rows("SELECT key, value FROM notes ORDER BY key") if key.startswith(prefix)}


def _held(db: Database, batch_id: str) -> tuple[Head, ...]:
    return _heads(db, "batch_id = %s AND state = 'leased'", (batch_id,))


def _newest(t: Transaction) -> int:
    return t.db.rows("SELECT max(arrival) FROM groups")[0][0] or 0


def _heads(db: Database, where: str, values: Sequence[object], end: str = "") -> tuple[Head, ...]:
    rows = db.rows(f"SELECT {HEAD} FROM groups WHERE {where} ORDER BY policy_version, arrival {end}", values)  # noqa: S608 no caller's text
    return tuple(Head(*row) for row in rows)
