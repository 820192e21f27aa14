"""How many groups an environment server should start now."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from services.rollout_api.base import FORGET_SECONDS, Snapshot
from services.rollout_api.messages import EnvironmentSpec, GroupCounts, Run, RunStatus


class Server(NamedTuple):
    """One environment server; `worker` tells those of one environment apart."""

    run: str
    """For which it works, as it says itself: empty where it does not say."""
    environment: str
    worker: str


@dataclass
class Report:
    """What a server last said; `asked` tells its requests apart."""

    running: int
    heard_at: float
    asked: int = 0
    arrived: int = 0
    """Groups of its that are queued or were, whether or not it has heard so."""


class Roster:
    """What environment servers are making at the moment. Kept in memory: they say it again with every request.

    Times are monotonic, in seconds. Every answer costs the same with one server and with a thousand.
    """

    def __init__(self) -> None:
        self._reports: dict[Server, Report] = {}
        self._running: dict[tuple[str, str | None], int] = {}
        self._active: dict[str, dict[str, int]] = {}
        self._pruned_at = 0.0
        self.changes = 0
        """Grows when an environment starts or stops being heard of."""
        self.unnamed = ""
        """The run that servers work for which name none."""

    def report(self, server: Server, running: int, now: float, handed_over: int | None = None) -> int:
        """Note that a server makes `running` groups; the number of this request among its requests.

        A group may arrive while the server says that it makes it. Where it also says how many it knows to be
        `handed_over`, those that arrived since are not counted twice.
        """
        known = self._reports.get(server, Report(0, now))
        asked, arrived = known.asked + 1, known.arrived
        if handed_over is not None:
            arrived = max(arrived, handed_over)  # what was handed over before this process began
            running = max(0, running - (arrived - handed_over))
        self._set(server, Report(running, now, asked, arrived))
        return asked

    def asked(self, server: Server) -> int:
        """How many requests that server has made."""
        known = self._reports.get(server)
        return known.asked if known else 0

    def started(self, server: Server, groups: int, now: float) -> None:
        """Count groups as being made from the moment that they were asked for."""
        known = self._reports.get(server, Report(0, now))
        self._set(server, Report(known.running + groups, now, known.asked, known.arrived))

    def arrived(self, server: Server) -> int:
        """How many groups of that server are known to have arrived."""
        known = self._reports.get(server)
        return known.arrived if known else 0

    def delivered(self, server: Server, now: float, handed_over: int | None = None) -> None:
        """A group arrived: one less is being made, until the server says its own number again.

        Without a worker's name it is taken off any server of that environment. `handed_over`: how many had arrived
        before, as the server knew when it sent this one; it may not have asked for anything since this process began.
        """
        known = self._reports.get(server)
        if known is None and server.worker and handed_over is not None:
            known = Report(0, now, arrived=handed_over)
        if known is None and not server.worker:
            server, known = next(
                (pair for pair in self._reports.items() if pair[0][:2] == server[:2] and pair[1].running > 0), (server, None)
            )
        if known is not None:
            self._set(server, Report(max(0, known.running - 1), known.heard_at, known.asked, known.arrived + 1))

    def running(self, run: str, environment: str | None = None) -> int:
        """Groups that are being made for a run, by one environment or by all."""
        return sum(self._running.get((name, environment), 0) for name in self._names(run))

    def active(self, run: str) -> set[str]:
        """The environments that were heard of lately."""
        return {environment for name in self._names(run) for environment in self._active.get(name, ())}

    def forget_silent(self, now: float) -> None:
        """Leave out who said nothing for long; costs something once a second at most."""
        if now - self._pruned_at > 1.0:
            self._pruned_at = now
            for server in [known for known, report in self._reports.items() if now - report.heard_at > FORGET_SECONDS]:
                self._forget(server)

    def _names(self, run: str) -> tuple[str, ...]:
        return ("", run) if run and run == self.unnamed else (run,)

    def _set(self, server: Server, report: Report) -> None:
        before = self._reports.get(server)
        if before is None:
            servers = self._active.setdefault(server.run, {})
            servers[server.environment] = servers.get(server.environment, 0) + 1
            self.changes += servers[server.environment] == 1
        self._reports[server] = report
        self._add(server, report.running - (before.running if before else 0))

    def _forget(self, server: Server) -> None:
        self._add(server, -self._reports.pop(server).running)
        servers = self._active[server.run]
        servers[server.environment] -= 1
        if not servers[server.environment]:
            del servers[server.environment]
            self.changes += 1

    def _add(self, server: Server, groups: int) -> None:
        for place in ((server.run, None), (server.run, server.environment)):
            self._running[place] = self._running.get(place, 0) + groups


class Shares:
    """Which part of a run's groups each environment gets; worked out anew when one comes, goes or changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, tuple[int, str], dict[str, float]]] = {}

    def of(self, run: str, environments: Mapping[str, EnvironmentSpec], roster: Roster) -> dict[str, float]:
        """The shares of the environments that were heard of lately; they add up to 1."""
        known, state = self._known.get(run), (roster.changes, roster.unnamed)
        if known is None or known[0] is not environments or known[1] != state:
            specs = {name: environments[name] for name in sorted(roster.active(run)) if name in environments}
            known = (environments, state, shares(specs))
            self._known[run] = known
        return known[2]


def shares(specs: Mapping[str, EnvironmentSpec]) -> dict[str, float]:
    """Shares by weight, none below its environment's minimum; minima that add up to more than 1 are scaled down."""
    scale = max(1.0, sum(spec.min_share for spec in specs.values()))
    found = {name: spec.min_share / scale for name, spec in specs.items()}
    fixed: set[str] = set()
    while len(fixed) < len(specs):
        left = 1.0 - sum(found[name] for name in fixed)
        weights = sum(spec.weight for name, spec in specs.items() if name not in fixed)
        by_weight = {name: left * spec.weight / weights for name, spec in specs.items() if name not in fixed}
        short = {name for name, share in by_weight.items() if share < specs[name].min_share / scale}
        if not short:
            return found | by_weight
        fixed |= short
    return found


def free_groups(run: Run | None, snapshot: Snapshot, roster: Roster) -> int:
    """How many groups may be started for a run by all environments together; see `groups_to_start`."""
    if run is None or run.status is not RunStatus.RUNNING:
        return 0
    counts = snapshot.total(run.id)
    return _limit(run) - counts.queued - counts.leased - roster.running(run.id)


def groups_to_start(run: Run | None, environment: str, snapshot: Snapshot, roster: Roster, share: float) -> int:
    """The admission rule: what is queued, leased or running stays within (max_staleness + 1) batches.

    A group that starts now is then trained on at most max_staleness versions later. Environments share that by
    weight, above their minimum. 0 while no run is open, when it is paused or finished, and for what its last steps
    cannot use.
    Source: AReaL, arXiv 2505.24298, section 5.1.
    """
    free = free_groups(run, snapshot, roster)
    if run is None or free <= 0:
        return 0
    counts = snapshot.counts.get((run.id, environment), GroupCounts())
    own = counts.queued + counts.leased + roster.running(run.id, environment)
    own_limit = ceil(_limit(run) * share - 1e-9)  # thirds and the like must not round up to one more
    return max(0, min(free, own_limit - own))


def group_size(environment: str, snapshot: Snapshot, run: Run | None) -> int:
    """Rollouts of one group: the environment's own number, else the run's, 1 where no run is open."""
    return snapshot.environments[environment].group_size or (run.group_size if run else 1)


def _limit(run: Run) -> int:
    return min(run.max_staleness + 1, run.total_steps - run.step) * run.groups_per_batch
