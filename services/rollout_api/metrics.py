"""The queue's figures in the Prometheus text format."""

from collections.abc import Iterator, Mapping, Sequence

from services.rollout_api.base import Snapshot

METRICS_TYPE = "text/plain; version=0.0.4"
STATES = ("queued", "leased", "trained", "dropped", "failed")
Labels = Mapping[str, str]


def exposition(snapshot: Snapshot, running: Mapping[tuple[str, str], int], commits: int) -> str:
    """What GET /metrics answers. `running`: groups that are being made, by run and environment."""
    return "\n".join(_lines(snapshot, running, commits)) + "\n"


def _lines(snapshot: Snapshot, running: Mapping[tuple[str, str], int], commits: int) -> Iterator[str]:
    totals = {run: counts for run, counts in snapshot.totals.items() if counts.accepted or run}
    groups = [({"run": run, "state": state}, getattr(counts, state)) for run, counts in totals.items() for state in STATES]
    yield from _metric("natgym_groups", "gauge", "Scored groups by what became of them.", groups)
    accepted = [({"run": run}, counts.accepted) for run, counts in totals.items()]
    yield from _metric("natgym_groups_accepted_total", "counter", "Groups that were accepted.", accepted)
    lost = [({"run": run}, counts.lost_trajectories) for run, counts in totals.items()]
    yield from _metric("natgym_trajectories_lost_total", "counter", "Trajectories that hold a failure.", lost)
    held = [({"run": run}, counts.held_bytes) for run, counts in totals.items()]
    yield from _metric("natgym_queue_bytes", "gauge", "Size of the groups queued or leased, as they were posted.", held)
    made = [({"run": run, "environment": name}, groups) for (run, name), groups in sorted(running.items())]
    yield from _metric("natgym_running_groups", "gauge", "Groups that environment servers are making.", made)
    steps = [({"run": run.id}, run.step) for run in snapshot.runs.values()]
    yield from _metric("natgym_run_step", "gauge", "Acknowledged updates of the run.", steps)
    versions = [({"run": run.id}, run.policy_version) for run in snapshot.runs.values()]
    yield from _metric("natgym_policy_version", "gauge", "Version that the trainer has reached.", versions)
    yield from _metric("natgym_environments", "gauge", "Registered environments.", [({}, len(snapshot.environments))])
    yield from _metric("natgym_commits_total", "counter", "Transactions, one fsync each.", [({}, commits)])


def _metric(name: str, kind: str, text: str, samples: Sequence[tuple[Labels, int]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        listed = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{listed}}} {value}" if listed else f"{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
