"""One transaction of the ledger: its database, what it moved, and what it will tell when it is on the disk."""

from collections.abc import Sequence
from typing import NamedTuple

from services.rollout_api.base import Event, Limits, Snapshot
from services.rollout_api.database import Database
from services.rollout_api.messages import EnvironmentSpec, GroupCounts, GroupState, Run

FINAL_STATES = (GroupState.TRAINED, GroupState.DROPPED, GroupState.FAILED)


class Place(NamedTuple):
    """Where a group is counted."""

    run: str
    environment: str
    state: str


class Amount(NamedTuple):
    """What is counted there; bytes are of the bodies."""

    groups: int = 0
    bytes: int = 0
    lost: int = 0


class Transaction:
    """What the functions of the ledger change together; counts are written once, at its end."""

    def __init__(self, db: Database, before: Snapshot, limits: Limits) -> None:
        self.db, self.limits, self._before = db, limits, before
        self.events: list[Event] = []
        self.rewritten = False
        """Something besides the counts changed: the snapshot has to be read anew."""
        self._moved: dict[Place, Amount] = {}
        self._unwritten: dict[Place, Amount] = {}
        totals = before.totals.values()
        self._held_before = Amount(sum(one.queued + one.leased for one in totals), sum(one.held_bytes for one in totals))

    @property
    def held(self) -> Amount:
        """What is queued or leased now, in all runs."""
        held = self._held_before
        for place, amount in self._moved.items():
            if place.state not in FINAL_STATES:
                held = _sum(held, amount)
        return held

    def move(self, old: GroupState, new: GroupState, where: str, values: Sequence[object]) -> list[int]:
        """Move the groups of one state that fulfil a condition into another; their arrivals.

        What is final loses its payload, unless some are kept.
        """
        moved = self.db.rows(
            f"UPDATE groups SET state = '{new.value}' WHERE state = '{old.value}' AND {where}"  # noqa: S608 no caller's text
            " RETURNING run, environment, bytes, lost, arrival",
            values,
        )
        for run, environment, size, lost, _ in moved:
            self.count(Place(run, environment, old.value), Amount(1, size, lost), -1)
            self.count(Place(run, environment, new.value), Amount(1, size, lost))
        arrivals = [row[4] for row in moved]
        if new in FINAL_STATES and not self.limits.kept_payloads:
            self.db.payloads.drop(arrivals)
        return arrivals

    def count(self, place: Place, amount: Amount, sign: int = 1) -> None:
        """Add to what is counted in a place, or take away from it."""
        signed = Amount(*(sign * number for number in amount))
        for counted in (self._moved, self._unwritten):
            counted[place] = _sum(counted.get(place, Amount()), signed)

    def tell(self, kind: str, run: str, **facts: str | int | float | None) -> None:
        """Note what happened, for those who listen."""
        self.events.append(Event(kind, run, facts))

    def write_counts(self) -> None:
        """Bring the counts in the database up to date."""
        # in one order everywhere: two processes that lock these rows crosswise would wait for each other
        rows = [(*place, *amount) for place, amount in sorted(self._unwritten.items()) if any(amount)]
        if rows:
            self.db.run_many(
                "INSERT INTO counts (run, environment, state, groups, bytes, lost) VALUES (%s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (run, environment, state) DO UPDATE SET groups = counts.groups + excluded.groups,"
                " bytes = counts.bytes + excluded.bytes, lost = counts.lost + excluded.lost",
                rows,
            )
        self._unwritten.clear()

    def after(self) -> Snapshot:
        """The state with what was changed here, once the counts are written."""
        return read_snapshot(self.db) if self.rewritten else _moved(self._before, self._moved)


def read_snapshot(db: Database) -> Snapshot:
    """The state now; costs nothing that grows with the queue."""
    names = ", ".join(Run.model_fields)
    runs: dict[str, Run] = {}
    updates: dict[str, str] = {}
    for *fields, update in db.rows(f"SELECT {names}, last_update FROM runs ORDER BY opened"):  # noqa: S608 our own column names
        run = Run(**dict(zip(Run.model_fields, fields, strict=True)))
        runs[run.id] = run
        if update is not None:
            updates[run.id] = update
    environments = {
        name: EnvironmentSpec(group_size=size, weight=weight, min_share=min_share)
        for name, size, weight, min_share in db.rows(
            "SELECT name, group_size, weight, min_share FROM environments ORDER BY name"
        )
    }
    empty = Snapshot(runs=runs, updates=updates, environments=environments)
    counted = db.rows("SELECT run, environment, state, groups, bytes, lost FROM counts")
    return _moved(empty, {Place(*row[:3]): Amount(*map(int, row[3:])) for row in counted})


def _moved(before: Snapshot, moved: dict[Place, Amount]) -> Snapshot:
    counts, totals = dict(before.counts), dict(before.totals)
    for (run, environment, state), amount in moved.items():
        counts[run, environment] = _counted(counts.get((run, environment)), state, amount)
        totals[run] = _counted(totals.get(run), state, amount)
    return Snapshot(before.runs, before.updates, before.environments, counts, totals)


def _counted(before: GroupCounts | None, state: str, amount: Amount) -> GroupCounts:
    known = before or GroupCounts()
    changed = {
        state: getattr(known, state) + amount.groups,
        "accepted": known.accepted + amount.groups,
        "lost_trajectories": known.lost_trajectories + amount.lost,
        "held_bytes": known.held_bytes + (0 if state in FINAL_STATES else amount.bytes),
    }
    return known.model_copy(update=changed)


def _sum(one: Amount, other: Amount) -> Amount:
    return Amount(*(a + b for a, b in zip(one, other, strict=True)))
