"""Figures of an evaluation, and what they are worth."""

import asyncio
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import SandboxSpec
from core.errors import ConfigError
from environments.base import Split
from environments.episode import Arena
from environments.evaluation import EvaluationConfig, EvaluationReport, evaluate
from environments.gold_policy import GoldPolicy
from environments.intervals import mean_interval, pass_at, rate_interval, student_t, wilson
from environments.policy import Completion, CompletionRequest
from tests.fakes import FakeBackend, FakePolicy, FakeSandbox, Sums

SUMS = Sums()
GOLD = GoldPolicy(SUMS.gold)


class Knows:
    """Right for some tasks, and for every fourth sample of the others."""

    def __init__(self, *numbers: int) -> None:
        self._known = {f"sum-{number}" for number in numbers}

    async def complete(self, request: CompletionRequest) -> Completion:
        right = request.task.id in self._known or request.episode_id.endswith("-3")
        return await (GOLD if right else FakePolicy(["no idea"])).complete(request)

    async def aclose(self) -> None:
        """Nothing is open."""


class EveryOtherDies(FakeBackend):
    async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
        sandbox = await super().create(spec)
        sandbox.destroyed = len(self.made) % 2 == 0
        return sandbox


class NoTasks(Sums):
    def tasks(self, split: Split) -> list:
        return []


async def report_of(arena: Arena, **options: object) -> EvaluationReport:
    return (await evaluate(arena, EvaluationConfig.model_validate(options)))[0]


async def test_gold_succeeds_everywhere():
    report = await report_of(Arena(SUMS, GOLD, FakeBackend()))
    assert (report.tasks, report.success.mean, report.reward.mean, report.turns.mean) == (4, 1.0, 1.0, 2.0)
    assert report.success.low == pytest.approx(0.51, abs=0.01)  # Wilson, 4 of 4


async def test_pass_at_k_counts_tasks_that_are_solved_at_times():
    report = await report_of(Arena(SUMS, Knows(100, 101), FakeBackend()), samples=4)
    assert {k: one.mean for k, one in report.pass_at.items()} == {1: 0.625, 2: 0.75, 4: 1.0}
    assert report.success.mean == 0.625


async def test_parts_and_metrics_of_the_reward_are_reported_by_name():
    report = await report_of(Arena(SUMS, GOLD, FakeBackend()))
    assert {name: one.mean for name, one in report.metrics.items()} == {"correct": 1.0, "turns": 2.0}


async def test_the_environment_reports_its_own_figures():
    assert (await report_of(Arena(SUMS, GOLD, FakeBackend()), samples=2)).figures == {"episodes": 8.0}


async def test_lost_episodes_are_counted_and_not_scored():
    report = await report_of(Arena(SUMS, GOLD, EveryOtherDies()), samples=2)
    assert report.lost == {"sandbox": 4}
    assert report.success.mean == 1.0
    assert report.success.samples == 4


async def test_only_so_many_tasks_are_played():
    backend = FakeBackend()
    await report_of(Arena(SUMS, GOLD, backend), tasks=3, samples=2)
    assert len(backend.made) == 6


async def test_only_so_many_episodes_play_at_once():
    playing, most = 0, 0

    class Counts(FakePolicy):
        async def complete(self, request: CompletionRequest) -> Completion:
            nonlocal playing, most
            playing, most = playing + 1, max(most, playing + 1)
            try:
                await asyncio.sleep(0)
                return await super().complete(request)
            finally:
                playing -= 1

    await report_of(Arena(SUMS, Counts(["4"]), FakeBackend()), samples=8, concurrent=3)
    assert most <= 3


async def test_trajectories_come_in_order_of_tasks_and_samples():
    _, trajectories = await evaluate(Arena(SUMS, GOLD, FakeBackend()), EvaluationConfig(samples=2, tasks=2))
    assert [one.id for one in trajectories] == [f"eval-sum-{task}-{sample}" for task in (100, 101) for sample in (0, 1)]


async def test_a_split_without_tasks_is_refused():
    with pytest.raises(ConfigError, match="no tasks in split 'held_out'"):
        await report_of(Arena(NoTasks(), GOLD, FakeBackend()))


@pytest.mark.parametrize(
    ("rate", "number", "low", "high"),
    [(0.0, 10, 0.0, 0.2775), (1.0, 100, 0.9630, 1.0), (0.5, 20, 0.2993, 0.7007), (0.85, 128, 0.7780, 0.9017)],
)
def test_wilson_equals_published_values(rate: float, number: int, low: float, high: float):
    assert wilson(rate, number) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (100, 1.984)])
def test_students_t_equals_the_tables(degrees: int, expected: float):
    assert student_t(degrees) == pytest.approx(expected, rel=0.005)


def test_a_mean_is_as_certain_as_its_clusters_and_not_as_its_samples():
    alike = mean_interval([[0.0] * 50, [1.0] * 50, [0.0] * 50, [1.0] * 50])
    apart = mean_interval([[value] for value in (0.0, 1.0, 0.0, 1.0)])
    assert (alike.low, alike.high) == (apart.low, apart.high)


def test_a_rate_of_samples_that_differ_within_tasks_is_worth_its_samples():
    mixed = rate_interval([[0.0, 1.0]] * 50)
    assert (mixed.low, mixed.high) == pytest.approx(wilson(0.5, 100))


def test_a_rate_of_tasks_that_are_all_or_nothing_is_worth_its_tasks():
    low, high = wilson(0.5, 50)
    interval = rate_interval([[0.0] * 4, [1.0] * 4] * 25)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.002)  # variance divides by n - 1


def test_one_cluster_says_nothing_about_spread():
    interval = mean_interval([[1.0, 2.0]])
    assert (interval.mean, interval.low, interval.high) == (1.5, None, None)


def test_nothing_measured_has_no_bounds():
    assert rate_interval([]).low is None


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_success(samples: int, data: st.DataObject):
    passed = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    assert pass_at(samples, passed, k) == pytest.approx(1 - comb(samples - passed, k) / comb(samples, k))
    assert pass_at(samples, passed, 1) == pytest.approx(passed / samples)
