"""The figures of a run."""

import pytest

from environments.evaluation import EvaluationReport
from environments.intervals import Interval
from services.dashboard.progress import Rate, mean_staleness, since, step_seconds
from services.environment_server.record import GroupRecord
from services.up.summary import Summary, account_line, figures, lost_by_boundary, seconds_per_step, table_lines
from trainer.metrics import Seconds, StepRecord


def record(step: int = 1, *, wait: float = 6.0, time: float = 100.0) -> StepRecord:
    return StepRecord(
        step=step,
        policy_version=step,
        time=time,
        groups=2,
        rollouts=4,
        rollouts_trained=4,
        reward_mean=0.5,
        reward_std=0.1,
        success_rate=0.25,
        loss=0.1,
        kl=0.0,
        kl_k1=0.0,
        entropy=1.0,
        grad_norm=1.0,
        clipped_fraction=0.0,
        dlogp_mean=0.0,
        dlogp_max=0.0,
        tokens=10,
        row_tokens=20,
        completion_tokens_mean=50.0,
        staleness={"0": 3, "2": 1},
        seconds=Seconds(wait=wait, train=1.5, publish=0.3, checkpoint=0.2),
        phases={"generation": 2.0, "sandbox": 0.5, "tools": 0.5, "reward": 1.0},
    )


def group(name: str, post_seconds: float = 1.0, **lost: int) -> GroupRecord:
    return GroupRecord(
        id=name, task_id="t", time=1.0, policy_version=0, rewards=(), lost=lost, play_seconds=2.0, post_seconds=post_seconds
    )


def interval(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 0.1, high=mean + 0.1, clusters=10, samples=20)


def report(mean: float) -> EvaluationReport:
    return EvaluationReport(
        environment="nat_agent",
        split="held_out",
        tasks=10,
        samples=2,
        lost={},
        success=interval(mean),
        pass_at={1: interval(mean)},
        reward=interval(mean),
        turns=interval(6.0),
        metrics={name: interval(mean) for name in ("tool_generation", "integration", "workflow", "scenario")},
        figures={},
        seconds=3.0,
        completion_tokens=100,
    )


def test_the_parts_of_a_step_add_up_to_the_whole():
    found = seconds_per_step([record()], [group("a"), group("b")])
    assert found is not None
    assert found.total == pytest.approx(8.0)
    assert found.generation + found.sandbox_and_reward + found.queue + found.update == pytest.approx(found.total)


def test_what_was_waited_for_is_shared_out_as_the_rollouts_spent_their_time():
    found = seconds_per_step([record()], [group("a", post_seconds=2.0)])
    assert found is not None
    assert (found.queue, found.generation, found.sandbox_and_reward, found.update) == pytest.approx((2.0, 2.0, 2.0, 2.0))


def test_a_first_wait_counts_from_when_there_was_somebody_to_wait_for():
    (clamped,) = since([record(wait=60.0, time=100.0)], start=90.0)
    assert step_seconds(clamped) == pytest.approx(10.2)


def test_a_wait_that_began_later_stays_as_it_was():
    assert since([record(wait=6.0, time=100.0)], start=10.0) == [record(wait=6.0, time=100.0)]


def test_lost_episodes_are_counted_by_boundary():
    assert lost_by_boundary([group("a", sandbox=1), group("b", sandbox=2, policy=1)]) == {"policy": 1, "sandbox": 3}


def test_staleness_is_the_mean_over_rollouts():
    assert mean_staleness(record()) == 0.5


def test_a_rate_is_a_rise_over_time_and_starts_anew_with_its_counter():
    rate = Rate()
    assert [rate.per_second(*seen) for seen in ((0, 0.0), (10, 2.0), (3, 4.0), (6, 5.0))] == [0.0, 5.0, 0.0, 3.0]


def summary() -> Summary:
    return Summary(
        environment="nat_agent",
        seed=0,
        steps=2,
        seconds=10.0,
        training_seconds=5.0,
        before=figures(report(0.4)),
        after=figures(report(0.9)),
        rollouts=1008,
        trained=1000,
        dropped={"failed": 1, "zero_variance": 7},
        lost={},
        seconds_per_step=None,
        rollout_seconds={},
        tokens_per_second=1.0,
        peak_mib={},
    )


def test_the_main_figures_have_intervals():
    found = summary().before
    assert found is not None
    assert list(found) == ["success_rate", "tool_generation", "integration", "workflow", "turns", "reward"]
    assert (found["workflow"].mean, found["workflow"].low, found["workflow"].high) == pytest.approx((0.4, 0.3, 0.5))


def test_what_became_of_the_rollouts_is_one_line():
    assert account_line(summary()) == "1,008 rollouts: 1,000 learned from, 1 failed, 7 zero variance"


def test_the_table_shows_before_and_after_side_by_side():
    lines = list(table_lines(summary()))
    assert lines[1].split("%")[0].split() == ["success", "rate", "40.0"]
    assert "90.0 % [80.0, 100.0]" in lines[1]
    assert lines[5].startswith("turns")


def test_an_interval_of_a_share_ends_at_what_a_share_can_be():
    lines = list(table_lines(summary().model_copy(update={"before": figures(report(0.05)), "after": figures(report(0.95))})))
    assert "5.0 % [0.0, 15.0]" in lines[1]
    assert "95.0 % [85.0, 100.0]" in lines[1]


def test_there_is_no_table_without_evaluations():
    assert list(table_lines(summary().model_copy(update={"before": None}))) == []


def test_a_summary_is_read_back_as_it_was():
    assert Summary.model_validate_json(summary().model_dump_json()) == summary()
