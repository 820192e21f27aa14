"""Runs and environments in the ledger; see `ledger` for what its functions promise."""

from services.rollout_api.base import NATIVE
from services.rollout_api.database import Database
from services.rollout_api.messages import EnvironmentSpec, GroupState, Run, RunChange, RunSpec, RunStatus
from services.rollout_api.refusals import Conflict, NotKnown
from services.rollout_api.transaction import Amount, Place, Transaction

FIELDS = ", ".join(Run.model_fields)


def read_run(db: Database, name: str, lock: str = "") -> Run | None:
    """The run of that id, where a trainer has opened one."""
    rows = db.rows(f"SELECT {FIELDS} FROM runs WHERE id = %s{lock}", (name,))  # noqa: S608 our own column names
    return Run(**dict(zip(Run.model_fields, rows[0], strict=True))) if rows else None


def queue_of(t: Transaction, name: str) -> str:
    """The run that is meant by that name: an empty one is the only run that is open, else the last one there was.

    Only runs of this dialect are meant by an empty name.

    Empty where no run was ever opened: the first one gets what waits there. Raises Conflict where several are open.
    """
    if name:
        return name
    found = _unnamed(t)
    if not found:
        _settle(t)
        found = _unnamed(t)
    return found


def register_environment(t: Transaction, name: str, spec: EnvironmentSpec) -> None:
    """Make the environment known, or change what is known of it."""
    t.db.run(
        "INSERT INTO environments (name, group_size, weight, min_share) VALUES (%s, %s, %s, %s) ON CONFLICT (name) DO UPDATE"
        " SET group_size = excluded.group_size, weight = excluded.weight, min_share = excluded.min_share",
        (name, spec.group_size, spec.weight, spec.min_share),
    )
    t.rewritten = True
    t.tell("environment", "", name=name, weight=spec.weight)


def open_run(t: Transaction, spec: RunSpec) -> Run:
    """Start that run, or resume it: what its last trainers had taken is queued again.

    Groups that were posted before any run was open belong to it now; what finished runs have left is dropped.
    """
    known = read_run(t.db, spec.id, t.db.row_lock)
    # whoever held a lease is gone, and must not acknowledge it into this run any more
    t.db.run("UPDATE batches SET state = 'void' WHERE run = %s AND state IN ('leased', 'expired')", (spec.id,))
    t.move(GroupState.LEASED, GroupState.QUEUED, "run = %s", (spec.id,))
    if spec.dialect == NATIVE:
        _adopt(t, spec.id)
    finished = "SELECT id FROM runs WHERE status = 'finished' AND id <> %s AND dialect = %s"
    for (name,) in t.db.rows(finished, (spec.id, spec.dialect)):
        t.move(GroupState.QUEUED, GroupState.DROPPED, "run = %s", (name,))
    step = spec.step if spec.step is not None else (known.step if known else 0)
    version = spec.policy_version if spec.policy_version is not None else (known.policy_version if known else 0)
    status = RunStatus.FINISHED if step >= spec.total_steps else RunStatus.RUNNING
    run = Run(**spec.model_dump(exclude={"step", "policy_version"}), step=step, policy_version=version, status=status)
    values = run.model_dump(mode="json")
    marks = ", ".join(["%s"] * len(values))
    changes = ", ".join(f"{name} = excluded.{name}" for name in values)
    t.db.run(
        f"INSERT INTO runs ({FIELDS}, opened) VALUES ({marks}, (SELECT coalesce(max(opened), 0) + 1 FROM runs))"  # noqa: S608
        f" ON CONFLICT (id) DO UPDATE SET {changes}, opened = excluded.opened",
        tuple(values.values()),
    )
    t.rewritten = True
    t.tell("run", run.id, status=status.value, step=step, policy_version=version)
    return run


def change_run(t: Transaction, change: RunChange) -> Run:
    """Pause, continue or finish the run. Raises NotKnown."""
    run = read_run(t.db, change.id, t.db.row_lock)
    if run is None:
        known = [name for (name,) in t.db.rows("SELECT id FROM runs ORDER BY opened")]
        raise NotKnown(f"no run {change.id!r}; known: {', '.join(known)[:300] or 'none'}")
    t.db.run("UPDATE runs SET status = %s WHERE id = %s", (change.status.value, change.id))
    t.rewritten = True
    t.tell("run", run.id, status=change.status.value, step=run.step, policy_version=run.policy_version)
    return run.model_copy(update={"status": change.status})


def clear_run(t: Transaction, name: str) -> int:
    """Forget the run, its groups and its batches; how many groups that were."""
    t.write_counts()
    t.db.payloads.drop_where("arrival IN (SELECT arrival FROM groups WHERE run = %s)", (name,))
    groups = t.db.run("DELETE FROM groups WHERE run = %s", (name,))
    for table in ("batches", "counts"):
        t.db.run(f"DELETE FROM {table} WHERE run = %s", (name,))  # noqa: S608 our own tables
    t.db.run("DELETE FROM runs WHERE id = %s", (name,))
    t.rewritten = True
    t.tell("run", name, status="cleared", step=None, policy_version=None)
    return groups


def _unnamed(t: Transaction) -> str:
    runs = t.db.rows("SELECT id, status FROM runs WHERE dialect = %s ORDER BY opened", (NATIVE,))
    unfinished = [run for run, status in runs if status != RunStatus.FINISHED.value]
    if len(unfinished) > 1:
        raise Conflict(f"{len(unfinished)} runs are open, name one of them: {', '.join(unfinished)[:300]}")
    return unfinished[0] if unfinished else (runs[-1][0] if runs else "")


def _settle(t: Transaction) -> None:
    """Wait for a process that opens the first run now, or for those that post before there is one."""
    t.db.rows(f"SELECT turn FROM turns{t.db.row_lock}")  # noqa: S608 our own words


def _adopt(t: Transaction, name: str) -> None:
    """Give the run what was posted while there was none."""
    _settle(t)
    t.write_counts()
    for environment, state, groups, size, lost in t.db.rows(
        "SELECT environment, state, groups, bytes, lost FROM counts WHERE run = ''"
    ):
        t.count(Place("", environment, state), Amount(groups, size, lost), -1)
        t.count(Place(name, environment, state), Amount(groups, size, lost))
    t.db.run("UPDATE groups SET run = %s WHERE run = ''", (name,))
