"""What is shown of a run while it goes on."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from trainer.metrics import StepRecord

WINDOW_SECONDS = 30.0


@dataclass
class Progress:
    """The state of a run; grows as it goes on."""

    title: str
    phase: str = "starting"
    done: int = 0
    total: int = 0
    """What `done` counts to: episodes of an evaluation, steps of the training."""
    steps: list[StepRecord] = field(default_factory=list)
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    rollouts_per_second: float = 0.0
    queued: int = 0
    playing: int = 0
    lost: int = 0

    @property
    def last(self) -> StepRecord | None:
        """The newest step."""
        return self.steps[-1] if self.steps else None


class View(Protocol):
    """Where progress is shown. Entered with `with`."""

    def __enter__(self) -> "View": ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, progress: Progress) -> None:
        """Draw the state; called about once a second and after each step."""
        ...

    def say(self, text: str) -> None:
        """One line that stays."""
        ...


class Rate:
    """How fast a counter rises, over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def per_second(self, value: float, now: float) -> float:
        """Note the counter's value at a time in seconds; its rise a second."""
        if self._seen and value < self._seen[-1][1]:
            self._seen.clear()  # the process that counts was started anew
        self._seen.append((now, value))
        while now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else 0.0


def mean_staleness(record: StepRecord) -> float:
    """Mean policy versions between sampling and training."""
    counts: Mapping[str, int] = record.staleness
    total = sum(counts.values())
    return sum(int(gap) * count for gap, count in counts.items()) / total if total else 0.0


def step_seconds(record: StepRecord) -> float:
    """Wall seconds of a step, its wait for groups included."""
    seconds = record.seconds
    return seconds.wait + seconds.train + seconds.publish + seconds.checkpoint


def since(records: Sequence[StepRecord], start: float) -> list[StepRecord]:
    """Records whose first wait does not count what was before `start`, in seconds since 1970.

    The trainer waits from the moment that it is there, also while held-out tasks are played.
    """
    kept: list[StepRecord] = []
    for one in records:
        longest = max(0.0, one.time - start - one.seconds.train - one.seconds.publish)
        if one.time >= start and one.seconds.wait > longest:
            one = one.model_copy(update={"seconds": one.seconds.model_copy(update={"wait": longest})})
        kept.append(one)
    return kept
