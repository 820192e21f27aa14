"""What environment servers are making, told between the processes that share one queue.

Two processes must not both give away the last groups. Each decides from what it knows and then writes its decision
down, but only if no other process has written one since: turns are counted under the lock of one row.
"""

import json
from typing import NamedTuple

from services.rollout_api.base import FORGET_SECONDS, Event, Told
from services.rollout_api.database import Database

SWEEP_TURNS = 1000  # how often rows of dead servers are deleted


class Teller(NamedTuple):
    """Who tells, and when: `now` is in seconds since 1970."""

    process: str
    now: float


def tell(db: Database, teller: Teller, event: Event, seen: int | None) -> Told:
    """See Store.tell. A transaction of its own: it holds no other lock, so none can wait for it in a circle."""
    db.begin()
    turn = db.rows("UPDATE turns SET turn = turn + 1 RETURNING turn")[0][0]
    rows = db.rows(
        "SELECT turn, facts FROM servers WHERE turn > %s AND process <> %s AND told_at > %s ORDER BY turn",
        (seen or 0, teller.process, teller.now - FORGET_SECONDS),
    )
    others = tuple(Event("worker", "", json.loads(facts) | {"turn": told}) for told, facts in rows)
    if others and seen is not None:
        db.rollback()
        return Told(turn - 1, others)
    name = json.dumps([event.facts[key] for key in ("for", "environment", "worker")])
    db.run(
        "INSERT INTO servers (name, process, turn, told_at, facts) VALUES (%s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE"
        " SET process = excluded.process, turn = excluded.turn, told_at = excluded.told_at, facts = excluded.facts",
        (name, teller.process, turn, teller.now, json.dumps(event.facts)),
    )
    if turn % SWEEP_TURNS == 0:
        db.run("DELETE FROM servers WHERE told_at < %s", (teller.now - 2 * FORGET_SECONDS,))
    db.commit([event._replace(facts=event.facts | {"turn": turn})])
    return Told(turn, others)
