"""Progress in a terminal, drawn over itself with Rich."""

from typing import Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from services.dashboard.progress import Progress, mean_staleness, step_seconds

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 44
REFRESH_PER_SECOND = 4


class LiveView:
    """Fulfils View."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, refresh_per_second=REFRESH_PER_SECOND, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Draw the panel."""
        self._live.update(panel(progress))

    def say(self, text: str) -> None:
        """A line above the panel."""
        self._console.print(text, markup=False, highlight=False)


def panel(progress: Progress) -> RenderableType:
    """Phase and bar, curves of reward and success, rates."""
    minutes, seconds = divmod(int(progress.seconds), 60)
    bar = Table.grid(padding=(0, 2))
    count = f"{progress.done}/{progress.total}" if progress.total else ""
    bar.add_row(Text(progress.phase, style="bold"), ProgressBar(max(progress.total, 1), progress.done, width=WIDTH), count)
    return Panel(
        Group(bar, Text(), _curves(progress), Text(), _rates(progress)),
        title=Text.assemble((progress.title, "bold"), f"  {minutes}m{seconds:02d}s"),  # a path may look like markup
        title_align="left",
        border_style="green",
        padding=(1, 2),
    )


def sparkline(values: list[float], width: int = WIDTH) -> str:
    """The last values as blocks, from the lowest to the highest of them."""
    shown = values[-width:]
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1)) if span else 0] for value in shown)


def _curves(progress: Progress) -> Table:
    rewards = [one.reward_mean for one in progress.steps if one.reward_mean is not None]
    success = [100 * one.success_rate for one in progress.steps if one.success_rate is not None]
    grid = Table.grid(padding=(0, 2))
    grid.add_row("mean reward", Text(sparkline(rewards), style="cyan"), f"{rewards[-1]:.3f}" if rewards else "-")
    grid.add_row("success rate", Text(sparkline(success), style="green"), f"{success[-1]:.1f} %" if success else "-")
    return grid


def _rates(progress: Progress) -> Columns:
    last = progress.last
    facts = (
        _fact("tokens/s", f"{progress.tokens_per_second:.0f}"),
        _fact("rollouts/s", f"{progress.rollouts_per_second:.2f}"),
        _fact("queue", f"{progress.queued}"),
        _fact("playing", f"{progress.playing}"),
        _fact("staleness", f"{mean_staleness(last):.1f}" if last else "-"),
        _fact("step", f"{step_seconds(last):.1f} s" if last else "-"),
        _fact("lost", f"{progress.lost}"),
    )
    return Columns(facts, padding=(0, 4))  # in as many lines as a narrow terminal needs


def _fact(name: str, value: str) -> Text:
    return Text.assemble((f"{name} ", "dim"), (value, "bold"))
