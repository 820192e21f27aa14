"""An evaluation in a folder, so that it can be taken up again, read by others and compared.

run.json        what is measured: a folder holds one evaluation
samples.jsonl   one scored episode a line: {messages, success, trajectory}; what a killed run was writing is dropped
metrics.json    the figures in the form of lighteval: config_general, results, versions, config_tasks
report.html     the figures and the episodes, see environments/report_page.py
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Self

from pydantic import BaseModel

from core.errors import BadData, ConfigError
from core.files import append_whole, flush, hold, make_folder, resumable, write_whole
from core.types import JsonObject, Task, Trajectory, Value
from environments.evaluation import EvaluationConfig, EvaluationReport, succeeded
from environments.intervals import Interval, Z, mean_interval
from environments.report_page import report_page
from environments.rows import first_problem
from tool_call_parsers.rendering import history


class Comparison(Value):
    """What changed since a baseline, task by task: differences of means with their 95 % intervals."""

    tasks: int
    """That both runs scored."""
    success: Interval
    reward: Interval


class _Sample(BaseModel):
    trajectory: Trajectory


class EvaluationRun:
    """A folder of one evaluation, written by one process at a time."""

    def __init__(self, folder: Path, told: JsonObject) -> None:
        """`told` is what has to be the same for the folder to be taken up again."""
        self.folder, self._told = folder, told
        self.known: dict[str, Trajectory] = {}

    def __enter__(self) -> Self:
        make_folder(self.folder)
        told, samples = self.folder / "run.json", self.folder / "samples.jsonl"
        found = _told_in(told)
        if found is None and any(self.folder.iterdir()):
            raise ConfigError(f"{self.folder}: holds something that is no evaluation; choose another folder")
        if found not in (None, self._told):
            raise ConfigError(f"{self.folder}: is an evaluation of {found}, not of {self._told}; choose another folder")
        write_whole(told, json.dumps(self._told) + "\n")
        with ExitStack() as opened:
            self._samples = opened.enter_context(FileIO(samples, "a"))
            flush(self.folder)  # the name of the file
            hold(self._samples, self.folder)
            self.known, whole = read_samples(samples)
            self._samples.truncate(whole)
            opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._samples.close()

    def add(self, task: Task, trajectory: Trajectory, success_reward: float) -> None:
        """Keep a scored episode, on disk when this returns. One that was lost is played again by the next run.

        Raises UserError where it cannot be written.
        """
        if trajectory.reward is None:
            return
        row = {
            "messages": [one.to_openai() for one in history(task.messages, trajectory.turns)],
            "success": succeeded(trajectory, success_reward),
            "trajectory": trajectory.model_dump(mode="json"),
        }
        with resumable(self.folder / "samples.jsonl"):
            append_whole(self._samples, json.dumps(row).encode() + b"\n")

    def finish(self, report: EvaluationReport, tasks: Mapping[str, Task], trajectories: Sequence[Trajectory]) -> None:
        """Write figures and report. Raises UserError where they cannot be written."""
        with resumable(self.folder):
            write_whole(self.folder / "metrics.json", json.dumps(lighteval(report, self._told), indent=2) + "\n")
            write_whole(self.folder / "report.html", report_page(report, tasks, trajectories))


def _told_in(path: Path) -> JsonObject | None:
    """What a run.json says; None where there is none. Raises ConfigError where it says nothing."""
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON ({error}); choose another folder") from error


def read_samples(path: Path) -> tuple[dict[str, Trajectory], int]:
    """The episodes in a samples.jsonl by id, and how many bytes of it are whole lines.

    Raises BadData naming the row that is no sample.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    found: dict[str, Trajectory] = {}
    for number, line in enumerate(lines, start=1):
        try:
            one = _Sample.model_validate_json(line).trajectory
        except ValueError as error:
            raise BadData(f"{path}: row {number}: {first_problem(error)}") from error
        found[one.id] = one
    return found, sum(map(len, lines))


def lighteval(report: EvaluationReport, told: JsonObject) -> JsonObject:
    """The figures as lighteval 0.13 writes them: each with its standard error, where it has an interval.

    A task is called SUITE:TASK|SHOTS; nothing is cut or padded to fit, so its counts of that are zero.
    """
    figures = {"success": report.success, "reward": report.reward, "turns": report.turns}
    figures |= {f"pass@{k}": one for k, one in report.pass_at.items()} | {f"part:{k}": v for k, v in report.metrics.items()}
    results: JsonObject = {}
    for name, one in figures.items():
        results[name] = one.mean
        if one.low is not None and one.high is not None:
            results[f"{name}_stderr"] = (one.high - one.low) / (2 * Z)
    task, played = f"natgym:{report.environment}|0", report.tasks * report.samples - sum(report.lost.values())
    model = told.get("policy")
    details: JsonObject = {"hashes": {}, "truncated": 0, "non_truncated": played, "padded": 0, "non_padded": played}
    return {
        "config_general": {
            "lighteval_sha": "?",
            "num_fewshot_seeds": 1,
            "max_samples": report.tasks,
            "job_id": "",
            "start_time": 0.0,
            "end_time": report.seconds,
            "total_evaluation_time_secondes": str(report.seconds),
            "model_config": {"model_name": model},
            "model_name": model,
        },
        "results": {task: results, "all": results},
        "versions": {task: 0},
        "config_tasks": {task: {**told, "tasks": report.tasks, "samples": report.samples, "lost": dict(report.lost)}},
        "summary_tasks": {task: details},
        "summary_general": details,
    }


def compare(config: EvaluationConfig, mine: Sequence[Trajectory], baseline: Path) -> Comparison:
    """What changed since the evaluation in the folder `baseline`. Raises ConfigError where it shares no task."""
    path = baseline / "samples.jsonl"
    if not path.is_file():
        raise ConfigError(f"--baseline {baseline}: expected a folder that `natgym evaluate --run` wrote, with a samples.jsonl")
    before, after = (_by_task(config, some) for some in (list(read_samples(path)[0].values()), mine))
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ConfigError(f"--baseline {baseline}: shares no task with this run")
    success, reward = (mean_interval([[_mean(after[task], at) - _mean(before[task], at)] for task in shared]) for at in (0, 1))
    return Comparison(tasks=len(shared), success=success, reward=reward)


def _by_task(config: EvaluationConfig, trajectories: Sequence[Trajectory]) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for one in trajectories:
        if one.reward is not None:
            figures = float(succeeded(one, config.success_reward)), one.reward.total
            found.setdefault(one.task_id, []).append(figures)
    return found


def _mean(figures: Sequence[tuple[float, float]], at: int) -> float:
    return sum(one[at] for one in figures) / len(figures)
