"""Progress as plain lines: one a step, one a phase. For logs, pipes and dumb terminals."""

import sys
from typing import Self, TextIO

from services.dashboard.progress import Progress, mean_staleness, step_seconds
from trainer.metrics import StepRecord


class PlainView:
    """Writes a line for what has changed."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._phase, self._told = "", 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, progress: Progress) -> None:
        """Lines for steps that were not told yet, and for a new phase."""
        if progress.phase != self._phase:
            self._phase = progress.phase
            self.say(progress.phase)
        for record in progress.steps[self._told :]:
            self.say(step_line(record, progress))
        self._told = len(progress.steps)

    def say(self, text: str) -> None:
        """Write one line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()


def step_line(record: StepRecord, progress: Progress) -> str:
    """One step in one line."""
    success = f"{100 * record.success_rate:.1f} %" if record.success_rate is not None else "-"
    reward = f"{record.reward_mean:.3f}" if record.reward_mean is not None else "-"
    return (
        f"step {record.step}/{progress.total}   reward {reward}   success {success}   "
        f"tokens/s {progress.tokens_per_second:.0f}   rollouts/s {progress.rollouts_per_second:.2f}   "
        f"queue {progress.queued}   staleness {mean_staleness(record):.1f}   {step_seconds(record):.1f} s"
    )
