"""The queue's figures in the Prometheus text format."""

from collections.abc import Iterator

from services.rollout_api.messages import QueueStatus

METRICS_TYPE = "text/plain; version=0.0.4"
STATES = ("queued", "leased", "trained", "dropped", "failed")


def exposition(status: QueueStatus, commits: int) -> str:
    """What GET /metrics answers."""
    return "\n".join(_lines(status, commits)) + "\n"


def _lines(status: QueueStatus, commits: int) -> Iterator[str]:
    yield "# HELP natgym_groups Scored groups by what became of them."
    yield "# TYPE natgym_groups gauge"
    for state in STATES:
        yield f'natgym_groups{{state="{state}"}} {getattr(status.counts, state)}'
    yield from _metric("natgym_groups_accepted_total", "counter", "Groups that were accepted.", status.counts.accepted)
    lost = status.counts.lost_trajectories
    yield from _metric("natgym_trajectories_lost_total", "counter", "Trajectories that hold a failure.", lost)
    yield from _metric("natgym_queue_bytes", "gauge", "Size of the groups queued or leased.", status.counts.held_bytes)
    yield from _metric("natgym_commits_total", "counter", "Transactions, one fsync each.", commits)
    yield "# HELP natgym_running_groups Groups that environment servers are making."
    yield "# TYPE natgym_running_groups gauge"
    for name, environment in status.environments.items():
        yield f'natgym_running_groups{{environment="{_escaped(name)}"}} {environment.running}'
    if status.run is not None:
        yield from _metric("natgym_run_step", "gauge", "Acknowledged updates of the run.", status.run.step)
        yield from _metric("natgym_policy_version", "gauge", "Version that the trainer has reached.", status.run.policy_version)


def _metric(name: str, kind: str, text: str, value: int) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    yield f"{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
