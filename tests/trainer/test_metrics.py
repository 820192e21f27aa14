"""The metrics file survives what kills its writer."""

from pathlib import Path

from core.types import Reward
from tests.trainer.toy import group, lost, pair, scored, turn
from trainer.metrics import MetricsFile, Seconds, StepRecord, batch_figures, mean_by_name, read_metrics, to_update


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        policy_version=step,
        time=0.0,
        groups=1,
        rollouts=2,
        rollouts_trained=2,
        reward_mean=0.5,
        loss=-0.1,
        kl=0.01,
        kl_k1=0.02,
        entropy=1.5,
        grad_norm=0.7,
        clipped_fraction=0.1,
        dlogp_mean=1e-6,
        dlogp_max=1e-5,
        tokens=3,
        row_tokens=7,
        seconds=Seconds(wait=1.0, train=2.0, publish=0.5),
    )


def write(path: Path, *steps: int, after: int = 0) -> None:
    metrics = MetricsFile(path, after)
    for step in steps:
        metrics.write(record(step))
    metrics.close()


def steps(path: Path) -> list[int]:
    return [one.step for one in read_metrics(path)]


def test_a_record_is_one_line(tmp_path: Path):
    write(tmp_path / "runs/metrics.jsonl", 1, 2)
    assert len((tmp_path / "runs/metrics.jsonl").read_text().splitlines()) == 2
    assert read_metrics(tmp_path / "runs/metrics.jsonl")[1] == record(2)


def test_a_broken_last_line_is_cut_off_and_written_again(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    path.write_text(path.read_text()[:-20])
    write(path, 2, after=1)
    assert steps(path) == [1, 2]


def test_steps_beyond_the_checkpoint_are_cut_off(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2, 3, 4)
    write(path, 3, after=2)
    assert steps(path) == [1, 2, 3]


def test_a_new_run_begins_an_empty_file(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    write(path)
    assert steps(path) == []


def test_figures_are_of_scored_rollouts():
    groups = [pair("a", version=3), group("b", [lost("x"), scored("y", 1.0, [turn([1], [2], 5), turn([1, 2], [3], 5)])])]
    figures = batch_figures(groups, policy_version=5)
    assert figures.reward_mean == 2 / 3
    assert figures.success_rate == 2 / 3
    assert figures.turns_mean == 4 / 3
    assert figures.reward_parts == {"right": 2 / 3}
    assert figures.staleness == {"0": 1, "2": 2}


def test_figures_of_a_batch_without_a_score_are_unknown_not_zero():
    assert batch_figures([group("b", [lost("x")])], 0).reward_mean is None


def test_a_metric_that_some_rewards_lack_is_averaged_over_the_others():
    rewards = [Reward.of({"a": 1.0}, right=1.0), Reward.of({"a": 2.0, "b": 4.0}, right=0.0)]
    assert mean_by_name(reward.metrics for reward in rewards) == {"a": 1.5, "b": 4.0}


def test_an_update_says_what_the_record_says():
    update = to_update(record(4), "weights")
    assert (update.step, update.kl, update.seconds, update.weights_path) == (4, 0.01, 2.5, "weights")
    assert update.metrics["reward_mean"] == 0.5
    assert "success_rate" not in update.metrics
