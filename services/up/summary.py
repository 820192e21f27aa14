"""What a run came to, as DIR/summary.json and as a table."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from statistics import fmean

from core.types import Value
from environments.evaluation import EvaluationReport
from environments.intervals import Interval
from services.dashboard.progress import step_seconds
from services.environment_server.record import GroupRecord
from trainer.metrics import StepRecord

SHARES = {"success_rate": "success rate", "tool_generation": "tool generation", "integration": "integration"}
ROWS = {**SHARES, "workflow": "workflow validation", "turns": "turns", "reward": "reward"}
GENERATION = "generation"


class Figure(Value):
    """A mean with its 95 % interval; without bounds where one task says nothing about spread."""

    mean: float
    low: float | None
    high: float | None


class StepSeconds(Value):
    """Mean wall seconds of a training step, split so that the parts add up to `total`.

    What the trainer waited for groups is shared out between generation and sandbox as the rollouts themselves spent
    their time; `queue` is what handing a group over cost; `update` is gradient, optimiser, publishing and checkpoint.
    """

    total: float
    generation: float
    sandbox_and_reward: float
    queue: float
    update: float


class Summary(Value):
    """The result of a run."""

    environment: str
    seed: int
    steps: int
    seconds: float
    """Wall seconds of natgym up, evaluations included; where it was resumed, since then."""
    training_seconds: float
    before: dict[str, Figure] | None
    after: dict[str, Figure] | None
    rollouts: int
    trained: int
    dropped: dict[str, int]
    """Rollouts of the training batches that were not learned from, by reason: rollouts == trained + sum(dropped)."""
    lost: dict[str, int]
    seconds_per_step: StepSeconds | None
    rollout_seconds: dict[str, float]
    """Mean seconds of a rollout by phase."""
    tokens_per_second: float
    """Sampled tokens of the training batches over the time of their steps."""
    peak_mib: dict[str, float]
    """Largest resident memory of each process; `NAME children` is the sum of what it started."""


def figures(report: EvaluationReport) -> dict[str, Figure]:
    """The main figures of an evaluation, by name."""
    found = {"success_rate": report.success, **_named(report), "turns": report.turns, "reward": report.reward}
    return {name: Figure(mean=one.mean, low=one.low, high=one.high) for name, one in found.items()}


def _named(report: EvaluationReport) -> Mapping[str, Interval]:
    names = [name for name in ROWS if name in report.metrics and name not in ("success_rate", "turns", "reward")]
    # a part of the reward has the name of the score that it weighs: the score is what is reported
    return {name: report.metrics[name] for name in names}


def seconds_per_step(records: Sequence[StepRecord], groups: Sequence[GroupRecord]) -> StepSeconds | None:
    """Where a step's wall time goes; None without a step."""
    if not records:
        return None
    total = fmean(step_seconds(one) for one in records)
    update = fmean(one.seconds.train + one.seconds.publish + one.seconds.checkpoint for one in records)
    waited = total - update
    queue = min(waited, fmean(one.post_seconds for one in groups)) if groups else 0.0
    phases = mean_phases(records)
    spent = sum(phases.values())
    generation = (waited - queue) * (phases.get(GENERATION, 0.0) / spent if spent else 1.0)
    return StepSeconds(
        total=total,
        generation=generation,
        sandbox_and_reward=waited - queue - generation,
        queue=queue,
        update=update,
    )


def mean_phases(records: Sequence[StepRecord]) -> dict[str, float]:
    """Mean seconds of a rollout by phase."""
    names = sorted({name for one in records for name in one.phases})
    return {name: fmean(one.phases[name] for one in records if name in one.phases) for name in names}


def sampled_tokens_per_second(records: Sequence[StepRecord]) -> float:
    """Completion tokens of all rollouts of the steps, over the time of the steps."""
    seconds = sum(step_seconds(one) for one in records)
    return sum((one.completion_tokens_mean or 0.0) * one.rollouts for one in records) / seconds if seconds else 0.0


def lost_by_boundary(groups: Sequence[GroupRecord]) -> dict[str, int]:
    """Episodes without a score, by boundary."""
    names = sorted({name for group in groups for name in group.lost})
    return {name: sum(group.lost.get(name, 0) for group in groups) for name in names}


def dropped_by_reason(records: Sequence[StepRecord]) -> dict[str, int]:
    """Rollouts that were not learned from, over all steps."""
    names = sorted({name for one in records for name in one.dropped})
    return {name: sum(one.dropped.get(name, 0) for one in records) for name in names}


def table_lines(summary: Summary) -> Iterator[str]:
    """The before/after table of the held-out tasks."""
    if summary.before is None or summary.after is None:
        return
    yield f"{'held out':<22}{'before':>26}{'after':>26}"
    for name, label in ROWS.items():
        if name in summary.before and name in summary.after:
            first, last = (_shown(name, one[name]) for one in (summary.before, summary.after))
            yield f"{label:<22}{first:>26}{last:>26}"


def account_line(summary: Summary) -> str:
    """What became of the rollouts: `2,304 rollouts: 1,200 learned from, 1,088 zero variance, 16 failed`."""
    left_out = "".join(f", {count:,} {reason.replace('_', ' ')}" for reason, count in summary.dropped.items())
    return f"{summary.rollouts:,} rollouts: {summary.trained:,} learned from{left_out}"


def _shown(name: str, figure: Figure) -> str:
    scale, unit, digits, least, most = (1.0, "", 2, -inf, inf) if name in ("turns", "reward") else (100.0, " %", 1, 0.0, 1.0)
    text = f"{scale * figure.mean:.{digits}f}{unit}"
    if figure.low is None or figure.high is None:
        return text
    # the interval of a mean knows nothing of what a share can be
    low, high = max(least, figure.low), min(most, figure.high)
    return f"{text} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
