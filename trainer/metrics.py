"""One JSON line per step, in a file that survives a crash and goes on where a checkpoint left it."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev

from pydantic import Field, ValidationError

from core.files import write_whole
from core.types import ScoredGroup, Update, Value

SUCCESS = "success_rate"


class Seconds(Value):
    """Where the wall time of a step went."""

    wait: float = 0.0
    train: float = 0.0
    publish: float = 0.0
    checkpoint: float = 0.0
    """Of the step before: a record is written before its own checkpoint, so that a crash between them repeats both."""


class StepRecord(Value):
    """One line of metrics.jsonl."""

    step: int
    policy_version: int
    time: float
    """Seconds since 1970."""
    groups: int
    rollouts: int
    rollouts_trained: int
    dropped: dict[str, int] = Field(default_factory=dict)
    """Rollouts that were not learned from, by reason: rollouts == rollouts_trained + sum(dropped)."""
    splits: int = 0
    reward_mean: float | None = None
    """Over all scored rollouts of the batch; None without any. The deviation is the population's."""
    reward_std: float | None = None
    success_rate: float | None = None
    """Mean of the reward metric `success_rate`, where environments report it."""
    reward_parts: dict[str, float] = Field(default_factory=dict)
    reward_metrics: dict[str, float] = Field(default_factory=dict)
    turns_mean: float | None = None
    completion_tokens_mean: float | None = None
    loss: float
    kl: float
    kl_k1: float
    entropy: float
    grad_norm: float
    clipped_fraction: float
    dlogp_mean: float
    """|logprob of the trainer - logprob of the sampler|, nats a token, before the update."""
    dlogp_max: float
    tokens: int
    """Completion tokens that were learned from."""
    row_tokens: int
    """The same with prompts and observations."""
    staleness: dict[str, int] = Field(default_factory=dict)
    """Scored rollouts by policy versions between sampling and training."""
    seconds: Seconds
    phases: dict[str, float] = Field(default_factory=dict)
    """Mean seconds of a rollout by phase, as its episode measured them."""


class BatchFigures(Value):
    """What the groups of a batch say of themselves."""

    reward_mean: float | None
    reward_std: float | None
    success_rate: float | None
    reward_parts: dict[str, float]
    reward_metrics: dict[str, float]
    turns_mean: float | None
    completion_tokens_mean: float | None
    staleness: dict[str, int]
    phases: dict[str, float]


def batch_figures(groups: Sequence[ScoredGroup], policy_version: int) -> BatchFigures:
    """Rewards, lengths and staleness of all scored rollouts, learned from or not."""
    scored = [one for group in groups for one in group.scored]
    rewards = [one.reward for one in scored if one.reward is not None]
    totals = [reward.total for reward in rewards]
    metrics = mean_by_name(reward.metrics for reward in rewards)
    gaps = Counter(policy_version - group.policy_version for group in groups for _ in group.scored)
    return BatchFigures(
        reward_mean=fmean(totals) if totals else None,
        reward_std=pstdev(totals) if totals else None,
        success_rate=metrics.get(SUCCESS),
        reward_parts=mean_by_name(reward.parts for reward in rewards),
        reward_metrics=metrics,
        turns_mean=fmean(len(one.turns) for one in scored) if scored else None,
        completion_tokens_mean=fmean(sum(len(turn.completion_ids) for turn in one.turns) for one in scored) if scored else None,
        staleness={str(gap): count for gap, count in sorted(gaps.items())},
        phases=mean_by_name(one.timings for one in scored),
    )


def mean_by_name(records: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each name over the records that have it."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.items():
            values.setdefault(name, []).append(value)
    return {name: fmean(found) for name, found in sorted(values.items())}


class MetricsFile:
    """Appends records; what was written survives a crash of the process."""

    def __init__(self, path: Path, step: int = 0) -> None:
        """Open a file to go on after `step`: later records and a broken last line are cut off."""
        kept = [record.model_dump_json() for record in read_metrics(path) if record.step <= step]
        write_whole(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: StepRecord) -> None:
        """Append one line and hand it to the disk."""
        self._file.write(f"{record.model_dump_json()}\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()


def read_metrics(path: Path) -> list[StepRecord]:
    """The records of a file up to its first broken line; none where there is no file."""
    records: list[StepRecord] = []
    if not path.exists():
        return records
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(StepRecord.model_validate_json(line))
        except ValidationError:
            break
    return records


def to_update(record: StepRecord, weights_path: str | None) -> Update:
    """The record as what is told to the rollout API."""
    return Update(
        step=record.step,
        policy_version=record.policy_version,
        loss=record.loss,
        kl=record.kl,
        entropy=record.entropy,
        grad_norm=record.grad_norm,
        clipped_fraction=record.clipped_fraction,
        tokens=record.tokens,
        seconds=record.seconds.train + record.seconds.publish,
        weights_path=weights_path,
        metrics={name: value for name, value in _extras(record).items() if value is not None},
    )


def _extras(record: StepRecord) -> dict[str, float | None]:
    return {
        "reward_mean": record.reward_mean,
        "reward_std": record.reward_std,
        "success_rate": record.success_rate,
        "dlogp_mean": record.dlogp_mean,
        "dlogp_max": record.dlogp_max,
        "rollouts": record.rollouts,
        "rollouts_trained": record.rollouts_trained,
        "wait_seconds": record.seconds.wait,
    }
