"""How many groups an environment server should start now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from services.rollout_api.ledger import Snapshot
from services.rollout_api.messages import RunStatus

FORGET_SECONDS = 120.0  # a server that said nothing for so long has died with what it was making


@dataclass
class Worker:
    """What one environment server last said; `asked` tells its requests apart."""

    running: int
    heard_at: float
    asked: int = 0


class Roster:
    """What environment servers are making at the moment. Kept in memory: they say it again with every request.

    `now` is a monotonic time in seconds.
    """

    def __init__(self) -> None:
        self._workers: dict[tuple[str, str], Worker] = {}

    def report(self, environment: str, worker: str, running: int, now: float) -> int:
        """Note that a server makes `running` groups; the number of this request among its requests."""
        asked = self.asked(environment, worker) + 1
        self._workers[environment, worker] = Worker(running, now, asked)
        return asked

    def asked(self, environment: str, worker: str) -> int:
        """How many requests that server has made."""
        known = self._workers.get((environment, worker))
        return known.asked if known else 0

    def started(self, environment: str, worker: str, groups: int, now: float) -> None:
        """Count groups as being made from the moment that they were asked for."""
        known = self._workers[environment, worker]
        known.running, known.heard_at = known.running + groups, now

    def delivered(self, environment: str, worker: str) -> None:
        """A group arrived: one less is being made, until the server says its own number again."""
        for (name, server), known in self._workers.items():
            if name == environment and known.running > 0 and worker in ("", server):
                known.running -= 1
                return

    def running(self, now: float) -> dict[str, int]:
        """Groups being made, by environment; only environments that were heard of lately are in it."""
        self._workers = {key: known for key, known in self._workers.items() if now - known.heard_at < FORGET_SECONDS}
        totals: dict[str, int] = {}
        for (name, _), known in self._workers.items():
            totals[name] = totals.get(name, 0) + known.running
        return totals


def groups_to_start(environment: str, snapshot: Snapshot, running: Mapping[str, int]) -> int:
    """The admission rule: what is queued, leased or running stays within (max_staleness + 1) batches.

    A group that starts now is then trained on at most max_staleness versions later. Environments share that by
    weight. 0 while no run is open, when it is paused or finished, and for what its last steps cannot use.
    Source: AReaL, arXiv 2505.24298, section 5.1.
    """
    run = snapshot.run
    if run is None or run.status is not RunStatus.RUNNING:
        return 0
    limit = min(run.max_staleness + 1, run.total_steps - run.step) * run.groups_per_batch
    outstanding = {name: _held(snapshot, name) + running.get(name, 0) for name in {*snapshot.counts, *running}}
    free = limit - sum(outstanding.values())
    own_share = _share(environment, limit, snapshot, [name for name in running if name in snapshot.environments])
    return max(0, min(free, own_share - outstanding.get(environment, 0)))


def group_size(environment: str, snapshot: Snapshot) -> int:
    """Rollouts of one group: the environment's own number, else the run's, 1 where no run is open."""
    run = snapshot.run
    return snapshot.environments[environment].group_size or (run.group_size if run else 1)


def _held(snapshot: Snapshot, environment: str) -> int:
    counts = snapshot.counts.get(environment)
    return counts.queued + counts.leased if counts else 0


def _share(environment: str, limit: int, snapshot: Snapshot, active: Sequence[str]) -> int:
    weights = {name: snapshot.environments[name].weight for name in {*active, environment}}
    return ceil(limit * weights[environment] / sum(weights.values()))
