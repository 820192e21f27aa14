"""What an evaluation is worth."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.nat_agent.reward import (
    HIGHEST,
    INTEGRATION_WEIGHTS,
    LOWEST,
    TOOL_WEIGHTS,
    WORKFLOW_WEIGHTS,
    Evaluation,
    Scale,
    nat_reward,
    verdict,
    weighted,
)

SHARES = st.floats(0, 1)


def evaluation(t: float, i: float, w: float, *, missing: bool = False) -> Evaluation:
    return Evaluation(tool_generation=t, integration=i, workflow=w, parts={}, missing=missing)


@given(SHARES, SHARES, SHARES, st.booleans(), st.integers(0, 40), st.sampled_from(Scale))
def test_a_reward_stays_in_its_range(t: float, i: float, w: float, missing: bool, turns: int, scale: Scale):
    assert LOWEST <= nat_reward(evaluation(t, i, w, missing=missing), turns, 16, scale).total <= HIGHEST[scale]


@pytest.mark.parametrize(("scale", "highest"), [(Scale.RAW, 2.3), (Scale.TWO, 2.0)])
def test_the_range_is_reached_at_both_ends(scale: Scale, highest: float):
    assert nat_reward(evaluation(0, 0, 0, missing=True), 16, 16, scale).total == LOWEST == -0.5
    assert nat_reward(evaluation(1, 1, 1), 0, 16, scale).total == pytest.approx(HIGHEST[scale]) == highest


def test_efficiency_still_counts_where_the_best_is_worth_two():
    quick, slow = (nat_reward(evaluation(1, 1, 1), turns, 16, Scale.TWO).total for turns in (4, 12))
    assert quick - slow == pytest.approx(0.3 * 0.5)


def test_the_parts_are_the_shares_of_the_three_scores():
    parts = nat_reward(evaluation(0.5, 0.25, 0.75), 4, 16).parts
    assert parts == {
        "tool_generation": 0.15,
        "integration": 0.075,
        "workflow": pytest.approx(0.3),
        "completeness": 0.0,
        "efficiency": 0.0,
        "missing": 0.0,
    }


@pytest.mark.parametrize("scores", [(1, 1, 0.98), (1, 0.98, 1), (0.98, 1, 1)])
def test_nothing_short_of_everything_is_complete(scores: tuple[float, float, float]):
    assert nat_reward(evaluation(*scores), 4, 16).parts["completeness"] == 0.0


def test_only_a_complete_agent_is_paid_for_being_quick():
    assert nat_reward(evaluation(1, 1, 1), 4, 16).parts["efficiency"] == pytest.approx(0.3 * 0.75)
    assert nat_reward(evaluation(1, 1, 0.5), 4, 16).parts["efficiency"] == 0.0


def test_more_turns_than_allowed_cost_nothing_extra():
    assert nat_reward(evaluation(1, 1, 1), 40, 16).parts["efficiency"] == 0.0


def test_a_missing_file_costs_and_is_never_complete():
    reward = nat_reward(evaluation(1, 1, 1, missing=True), 4, 16)
    assert (reward.parts["missing"], reward.parts["completeness"], reward.metrics["success"]) == (-0.5, 0.0, 0.0)


def test_metrics_hold_the_three_scores_and_every_sub_score():
    found = verdict([{"tool_registers": 1.0}], {"config_valid": 0.5}, {"tests": 0.0}, missing=False)
    metrics = nat_reward(found, 3, 16).metrics
    wanted = {"tool_generation": 1.0, "integration": 0.5, "workflow": 0.0, "success": 0.0, "turns": 3.0, "config_valid": 0.5}
    assert wanted.items() <= metrics.items()


@pytest.mark.parametrize("weights", [TOOL_WEIGHTS, INTEGRATION_WEIGHTS, WORKFLOW_WEIGHTS])
def test_weights_sum_to_one(weights: Mapping[str, float]):
    assert sum(weights.values()) == pytest.approx(1.0)


def test_a_part_that_is_not_asked_for_leaves_its_weight_to_the_others():
    without_servers = {name: 1.0 for name in INTEGRATION_WEIGHTS if not name.startswith("mcp")}
    assert weighted(without_servers, INTEGRATION_WEIGHTS) == pytest.approx(1.0)


def test_sub_scores_of_tools_are_means_over_the_tools_that_have_them():
    found = verdict([{"tool_builds": 1.0, "tool_settings": 0.5}, {"tool_builds": 0.0}], {}, {}, missing=False)
    assert found.parts == {"tool_builds": 0.5, "tool_settings": 0.5}
