"""An evaluation as one page of HTML that needs nothing else: figures first, then every episode.

Whatever a policy, a tool or a task said is escaped, and the page forbids scripts and requests of any kind.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from core.types import Message, Task, Trajectory
from environments.evaluation import EvaluationReport
from environments.intervals import Interval
from tool_call_parsers.rendering import history

MOST_EPISODES = 500
"""More make a page that no browser likes; all of them are in samples.jsonl."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
td, th { text-align: left; padding: .1rem 1.5rem .1rem 0; font-variant-numeric: tabular-nums }
summary { cursor: pointer; padding: .25rem 0 } details { border-top: 1px solid #ddd }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f4; padding: .6rem; margin: .2rem 0 .8rem }
.assistant { background: #eaf2fb } .tool { background: #f3efe2 } .lost { color: #a33 } h4 { margin: 0; font-weight: 500 }
"""


def report_page(report: EvaluationReport, tasks: Mapping[str, Task], trajectories: Sequence[Trajectory]) -> str:
    """The page; `tasks` by id. The worst episodes come first."""
    title = f"{report.environment}, {report.split}: {report.tasks} tasks x {report.samples}"
    shown = sorted(trajectories, key=lambda one: one.reward.total if one.reward else float("-inf"))[:MOST_EPISODES]
    left = len(trajectories) - len(shown)
    more = f"<p>and {left} more in samples.jsonl</p>" if left else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f"{_table(report)}\n<h2>Episodes</h2>\n{''.join(_episode(tasks.get(one.task_id), one) for one in shown)}{more}\n"
        "</body></html>\n"
    )


def _table(report: EvaluationReport) -> str:
    figures = {"success": report.success, "reward": report.reward, "turns": report.turns}
    figures |= {f"pass@{k}": one for k, one in report.pass_at.items()} | report.metrics
    rows = "".join(f"<tr><td>{escape(name)}</td>{_cells(one)}</tr>" for name, one in figures.items())
    lost = "".join(f'<p class="lost">{number} lost: {escape(name)}</p>' for name, number in report.lost.items())
    return f"<table><tr><th></th><th>mean</th><th>95 %</th></tr>{rows}</table>{lost}"


def _cells(one: Interval) -> str:
    bounds = "" if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"
    return f"<td>{one.mean:.3f}</td><td>{bounds}</td>"


def _episode(task: Task | None, one: Trajectory) -> str:
    verdict = f"{one.reward.total:.3f}" if one.reward else f"lost: {one.failure.boundary if one.failure else ''}"
    parts = {**one.reward.parts, **one.reward.metrics} if one.reward else {}
    told = ", ".join(f"{name} {value:.3f}" for name, value in parts.items()) or (one.failure.message if one.failure else "")
    head = f"{verdict} | {one.id} | {len(one.turns)} turns | {one.stop.value}"
    said = "".join(_messages(history(task.messages if task else (), one.turns)))
    return f"<details><summary>{escape(head)}</summary><p>{escape(told)}</p>{said}</details>\n"


def _messages(messages: Sequence[Message]) -> Iterator[str]:
    for one in messages:
        calls = "".join(f"\n{call.name} {call.arguments}" for call in one.tool_calls)
        thought = f"[thinks] {one.reasoning}\n" if one.reasoning else ""
        kind = escape(one.role.value)
        yield f'<h4>{kind}</h4><pre class="{kind}">{escape(f"{thought}{one.content}{calls}")}</pre>'
