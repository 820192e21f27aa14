"""What is shown of a run: lines, a panel, a plot."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from environments.intervals import Interval
from services.dashboard.live import panel, sparkline
from services.dashboard.plain import PlainView
from services.dashboard.plot import plot_rewards, smoothed
from services.dashboard.progress import Progress
from tests.services.up.test_summary import record

PNG = b"\x89PNG\r\n\x1a\n"


def progress() -> Progress:
    return Progress(title="natgym", phase="training", done=2, total=5, steps=[record(1), record(2)], queued=3)


def test_a_pipe_gets_one_line_a_step_and_one_a_phase():
    stream = io.StringIO()
    view = PlainView(stream)
    view.show(progress())
    view.show(progress())
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training"
    assert [line.partition("   ")[0] for line in lines[1:]] == ["step 1/5", "step 2/5"]
    assert "reward 0.500   success 25.0 %" in lines[1]


@pytest.mark.parametrize("width", [80, 200])
def test_the_panel_shows_what_the_issue_lists(width: int):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(panel(progress()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    shown = ("training", "2/5", "mean reward", "success rate", "tokens/s", "rollouts/s", "queue 3", "staleness 0.5", "lost 0")
    assert [word for word in shown if word not in text] == []


def test_a_panel_before_the_first_step_can_be_drawn():
    Console(file=io.StringIO()).print(panel(Progress(title="natgym")))


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline([0.0, 1.0, 0.5]) == "▁█▅"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


def test_a_plot_is_a_png(tmp_path: Path):
    held_out = Interval(mean=0.4, low=0.3, high=0.5, clusters=10, samples=20)
    plot_rewards(tmp_path / "reward.png", [record(1), record(2)], held_out, held_out)
    assert (tmp_path / "reward.png").read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["reward.png"]


def test_steps_without_a_reward_are_left_out_of_the_smoothed_curve():
    assert smoothed([1.0, float("nan"), 3.0]) == [1.0, 1.0, 2.0]
