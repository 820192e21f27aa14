"""How good a policy is on a split: n tasks, k samples each, and what the figures are worth."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from pydantic import Field

from core.config import Config
from core.errors import ConfigError
from core.types import Task, Trajectory, Value
from environments.base import Split
from environments.episode import Arena, run_episode
from environments.intervals import Interval, mean_interval, pass_at, rate_interval

SUCCESS = "success"


class EvaluationConfig(Config):
    """What is measured."""

    tasks: int | None = Field(default=None, gt=0)
    """The first so many tasks of the split; None: all."""
    samples: int = Field(default=1, gt=0)
    concurrent: int = Field(default=32, gt=0)
    split: Split = Split.HELD_OUT
    success_reward: float = 1.0
    """A total from which an episode counts as a success, where its reward has no metric `success`."""


class EvaluationReport(Value):
    """What was found. Intervals are 95 %, over tasks; lost episodes are counted and never scored."""

    environment: str
    split: str
    tasks: int
    samples: int
    lost: dict[str, int]
    """Episodes that broke, by boundary."""
    success: Interval
    pass_at: dict[int, Interval]
    """Chance that one of k attempts succeeds, for k = 1, 2, 4 ... up to the samples of a task."""
    reward: Interval
    turns: Interval
    metrics: dict[str, Interval]
    """Means of what the reward measures (its parts and metrics, by name)."""
    figures: dict[str, float]
    """The environment's own report."""
    seconds: float
    completion_tokens: int


async def evaluate(
    arena: Arena,
    config: EvaluationConfig,
    on_episode: Callable[[Trajectory], None] = lambda trajectory: None,
    known: Mapping[str, Trajectory] | None = None,
) -> tuple[EvaluationReport, tuple[Trajectory, ...]]:
    """The report, and the trajectories in order of tasks and samples. Raises ConfigError for a split without tasks.

    Episodes that are `known`, by id, are not played again, and `on_episode` does not hear of them.
    """
    tasks = arena.environment.tasks(config.split)[: config.tasks]
    if not tasks:
        raise ConfigError(f"environment {arena.environment.name!r} has no tasks in split {config.split.value!r}")
    started, free = arena.clock.monotonic(), asyncio.Semaphore(config.concurrent)

    async def play(task: Task, sample: int) -> Trajectory:
        if (before := (known or {}).get(f"eval-{task.id}-{sample}")) is not None:
            return before
        async with free:
            trajectory = await run_episode(arena, task, f"eval-{task.id}-{sample}")
        on_episode(trajectory)
        return trajectory

    async with asyncio.TaskGroup() as owner:
        playing = [owner.create_task(play(task, sample)) for task in tasks for sample in range(config.samples)]
    trajectories = tuple(one.result() for one in playing)
    seconds = arena.clock.monotonic() - started
    return summarise(arena, config, trajectories, seconds), trajectories


def summarise(arena: Arena, config: EvaluationConfig, trajectories: Sequence[Trajectory], seconds: float) -> EvaluationReport:
    """The figures of trajectories that were played."""
    scored = [one for one in trajectories if one.reward is not None]
    lost = [one.failure.boundary for one in trajectories if one.failure is not None]

    def clusters(measure: Callable[[Trajectory], float | None]) -> list[list[float]]:
        return _by_task(scored, measure)

    passed = clusters(lambda one: float(succeeded(one, config.success_reward)))
    names = sorted({name for one in scored if one.reward is not None for name in (*one.reward.parts, *one.reward.metrics)})
    return EvaluationReport(
        environment=arena.environment.name,
        split=config.split.value,
        tasks=len({one.task_id for one in trajectories}),
        samples=config.samples,
        lost={boundary: lost.count(boundary) for boundary in sorted(set(lost))},
        success=rate_interval(passed),
        pass_at={k: _pass_interval(passed, k) for k in _powers_of_two(config.samples)},
        reward=mean_interval(clusters(lambda one: one.reward.total if one.reward else None)),
        turns=mean_interval(clusters(lambda one: float(len(one.turns)))),
        metrics={name: mean_interval(clusters(lambda one, name=name: measured(one, name))) for name in names},
        figures=arena.environment.report(scored),
        seconds=seconds,
        completion_tokens=sum(len(turn.completion_ids) for one in trajectories for turn in one.turns),
    )


def succeeded(trajectory: Trajectory, success_reward: float) -> bool:
    """Whether an episode did what was asked: the metric `success` of its reward, else its total."""
    reward = trajectory.reward
    if reward is None:
        return False
    return reward.metrics[SUCCESS] >= 0.5 if SUCCESS in reward.metrics else reward.total >= success_reward


def measured(trajectory: Trajectory, name: str) -> float | None:
    """A metric or part of the reward by name; None where this episode has none of that name."""
    if trajectory.reward is None:
        return None
    return trajectory.reward.metrics.get(name, trajectory.reward.parts.get(name))


def _by_task(trajectories: Iterable[Trajectory], measure: Callable[[Trajectory], float | None]) -> list[list[float]]:
    values: dict[str, list[float]] = {}
    for trajectory in trajectories:
        value = measure(trajectory)
        if value is not None:
            values.setdefault(trajectory.task_id, []).append(value)
    return list(values.values())


def _pass_interval(passed: Sequence[Sequence[float]], k: int) -> Interval:
    """pass@k over the tasks that have k scored attempts."""
    return rate_interval([[pass_at(len(task), int(sum(task)), k)] for task in passed if len(task) >= k])


def _powers_of_two(samples: int) -> list[int]:
    powers = [1]
    while powers[-1] * 2 <= samples:
        powers.append(powers[-1] * 2)
    return powers
