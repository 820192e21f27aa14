"""An evaluation as lines of text, with 95 % intervals."""

from collections.abc import Iterator

from environments.evaluation import EvaluationReport
from environments.evaluation_run import Comparison
from environments.intervals import Interval


def report_lines(report: EvaluationReport) -> Iterator[str]:
    """The head in one line, then one line a figure."""
    lost = sum(report.lost.values())
    broken = f"   {lost} lost ({', '.join(report.lost)})" if lost else ""
    yield (
        f"{report.environment}   {report.split}   {report.tasks} tasks x {report.samples}   "
        f"success {share(report.success)}   reward {number(report.reward)}{broken}   {report.seconds:.0f} s"
    )
    for k, interval in report.pass_at.items():
        yield f"  {f'pass@{k}':<20} {share(interval)}"
    yield f"  {'turns':<20} {number(report.turns)}"
    for name, interval in report.metrics.items():
        if name not in ("turns", "success", "success_rate"):
            yield f"  {name:<20} {number(interval)}"


def baseline_lines(changed: Comparison) -> Iterator[str]:
    """What changed since another run, task by task."""
    differences = f"success {share(changed.success)}   reward {number(changed.reward)}"
    yield f"  {'against baseline':<20} {differences}   {changed.tasks} tasks"


def share(interval: Interval) -> str:
    """`41.0 % [33.2, 49.1]`."""
    if interval.low is None or interval.high is None:
        return f"{100 * interval.mean:.1f} %"
    return f"{100 * interval.mean:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def number(interval: Interval) -> str:
    """`6.31 [6.02, 6.60]`."""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.2f}"
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
