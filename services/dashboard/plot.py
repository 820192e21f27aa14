"""Reward and success rate over the steps of a run, as a PNG."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from environments.intervals import Interval
from trainer.metrics import StepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHED_OVER = 5
REWARD, SUCCESS, MUTED = "#1f6f8b", "#3a9d5d", "#6b7280"


def plot_rewards(
    path: Path, records: Sequence[StepRecord], before: Interval | None = None, after: Interval | None = None
) -> None:
    """Write the plot: training rollouts as lines, held-out success before and after as points with 95 % intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 6), dpi=140, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    steps = [one.step for one in records]
    rewards = [one.reward_mean if one.reward_mean is not None else float("nan") for one in records]
    spread = [one.reward_std or 0.0 for one in records]
    top.fill_between(
        steps,
        [mean - by for mean, by in zip(rewards, spread, strict=True)],
        [mean + by for mean, by in zip(rewards, spread, strict=True)],
        color=REWARD,
        alpha=0.12,
        linewidth=0,
        label="± one deviation of the rollouts",
    )
    _curve(top, steps, rewards, REWARD, "mean reward")
    success = [100 * one.success_rate if one.success_rate is not None else float("nan") for one in records]
    _curve(bottom, steps, success, SUCCESS, "success, training rollouts")
    for step, interval in ((0, before), (max(steps, default=1), after)):
        if interval is not None:
            _point(bottom, step, interval, label="success, held out (95 %)" if interval is (before or after) else None)
    top.set_ylabel("reward")
    bottom.set_ylabel("success rate, %")
    bottom.set_ylim(-2, 102)
    bottom.set_xlabel("step")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.margins(x=0.06)
    for axes in (top, bottom):
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="best", frameon=False, fontsize=9)
    figure.suptitle("natgym: rollouts of the policy while it learns", x=0.01, ha="left", fontsize=12, fontweight="bold")
    partial = path.with_name(f"{path.stem}.partial.png")
    figure.savefig(partial)
    partial.replace(path)


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value's mean with up to four before it; NaN is left out."""
    windows = [values[max(0, end - SMOOTHED_OVER) : end] for end in range(1, len(values) + 1)]
    known = [[value for value in window if isfinite(value)] for window in windows]
    return [sum(window) / len(window) if window else float("nan") for window in known]


def _curve(axes: "Axes", steps: Sequence[int], values: Sequence[float], color: str, label: str) -> None:
    axes.plot(steps, values, color=color, alpha=0.35, linewidth=1.0, marker="o", markersize=2.5)
    axes.plot(steps, smoothed(values), color=color, linewidth=2.2, label=f"{label} (mean of {SMOOTHED_OVER} steps)")


def _point(axes: "Axes", step: int, interval: Interval, label: str | None) -> None:
    mean = 100 * interval.mean
    low = mean if interval.low is None else 100 * interval.low
    high = mean if interval.high is None else 100 * interval.high
    axes.errorbar(
        [step], [mean], [[max(0.0, mean - low)], [max(0.0, high - mean)]], color="black", marker="D", capsize=4, label=label
    )
    axes.annotate(f"{mean:.0f} %", (step, mean), textcoords="offset points", xytext=(8, 4), fontsize=9, color=MUTED)
