"""Scored groups become token-exact rows, and every rollout is accounted for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.types import ScoredGroup, StopReason, Trajectory
from tests.trainer.toy import group, lost, pair, scored, turn
from trainer.algorithms.advantages import centre
from trainer.samples import Admission, Dropped, SampleConfig, build_samples


def with_rival(*turns: object, stop: StopReason = StopReason.FINISHED) -> ScoredGroup:
    """A rollout of those turns that earned 1.0, beside one that earned 0.0."""
    return group("g", [scored("a", 1.0, turns, stop), scored("b", 0.0, [turn([1], [9])])])


def test_turns_that_extend_each_other_share_a_row():
    samples = build_samples([with_rival(turn([1, 2], [3]), turn([1, 2, 3, 4, 5], [6, 7]))], centre)
    row = samples.samples[0]
    assert row.token_ids == (1, 2, 3, 4, 5, 6, 7)
    assert row.loss_mask == (False, False, True, False, False, True, True)
    assert row.logprobs == (0.0, 0.0, -1.0, 0.0, 0.0, -1.0, -1.0)
    assert row.advantages == (0.0, 0.0, 0.5, 0.0, 0.0, 0.5, 0.5)
    assert samples.splits == 0


def test_a_prompt_that_lost_old_tokens_begins_a_new_row():
    samples = build_samples([with_rival(turn([1, 2], [3, 4]), turn([1, 2, 4, 5], [6]))], centre)
    assert [row.token_ids for row in samples.samples] == [(1, 2, 3, 4), (1, 2, 4, 5, 6), (1, 9)]
    assert samples.splits == 1


def test_a_prompt_shorter_than_the_row_begins_a_new_row():
    samples = build_samples([with_rival(turn([1, 2], [3, 4]), turn([1, 2], [6]))], centre)
    assert [row.token_ids for row in samples.samples[:2]] == [(1, 2, 3, 4), (1, 2, 6)]


def test_both_rows_of_a_split_rollout_carry_its_one_advantage():
    samples = build_samples([with_rival(turn([1, 2], [3]), turn([7], [6]))], centre)
    assert [max(row.advantages) for row in samples.samples[:2]] == [0.5, 0.5]


def test_a_row_is_as_old_as_its_oldest_turn():
    samples = build_samples([with_rival(turn([1], [2], version=3), turn([1, 2], [3], version=5))], centre)
    assert samples.samples[0].policy_version == 3


def test_the_mean_is_of_scored_members_only():
    members = [scored("a", 1.0, [turn([1], [2])]), lost("x", [turn([1], [2])]), scored("b", 0.0, [turn([1], [3])])]
    samples = build_samples([group("g", members)], centre)
    assert [max(row.advantages, key=abs) for row in samples.samples] == [0.5, -0.5]
    assert samples.dropped == {Dropped.FAILED: 1}


def test_a_group_of_equal_rewards_is_dropped():
    members = [scored(name, 0.1 + 0.2, [turn([1], [2])]) for name in "ab"] + [scored("c", 0.3, [turn([1], [2])])]
    samples = build_samples([group("g", members)], centre)
    assert samples.samples == ()
    assert samples.dropped == {Dropped.ZERO_VARIANCE: 3}


def test_a_lone_survivor_has_nothing_to_compare_with():
    samples = build_samples([group("g", [scored("a", 1.0, [turn([1], [2])]), lost("b")])], centre)
    assert samples.dropped == {Dropped.FAILED: 1, Dropped.TOO_SMALL: 1}


@pytest.mark.parametrize("stop", [StopReason.MAX_TOKENS, StopReason.MAX_TURNS, StopReason.TIMEOUT])
def test_cut_off_rollouts_can_be_left_out_but_count_in_the_mean(stop: StopReason):
    samples = build_samples([with_rival(turn([1], [2]), stop=stop)], centre, SampleConfig(mask_cut_off=True))
    assert [row.advantages for row in samples.samples] == [(0.0, -0.5)]
    assert samples.dropped == {Dropped.CUT_OFF: 1}


@pytest.mark.parametrize(
    ("admission", "reason"),
    [
        (Admission(oldest_version=3), Dropped.STALE),
        (Admission(trained=frozenset({"g"})), Dropped.ALREADY_TRAINED),
        (Admission(vocabulary=5), Dropped.UNKNOWN_TOKENS),
    ],
)
def test_inadmissible_rollouts_are_dropped_with_their_reason(admission: Admission, reason: Dropped):
    one = group("g", [scored(name, reward, [turn([5], [4], version=2)]) for name, reward in (("a", 1.0), ("b", 0.0))])
    samples = build_samples([one], centre, admission=admission)
    assert samples.dropped == {reason: 2}


def test_a_rollout_without_token_ids_is_not_learned_from():
    samples = build_samples([with_rival(turn([], []))], centre)
    assert samples.dropped == {Dropped.NO_TOKENS: 1}
    assert samples.trained == 1


def test_tokens_are_those_of_completions():
    assert build_samples([pair("g")], centre).tokens == 3


members = st.one_of(
    st.builds(lost, st.text()),
    st.builds(
        scored,
        st.text(),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.lists(st.builds(turn, st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)), st.integers(0, 3)), max_size=3),
        st.sampled_from(StopReason),
    ),
)


@given(st.lists(st.lists(members, min_size=1, max_size=5, unique_by=lambda member: member.id), max_size=4))
def test_every_rollout_is_trained_or_dropped_once(groups: list[list[Trajectory]]):
    made = [group(str(number), trajectories) for number, trajectories in enumerate(groups)]
    admission = Admission(oldest_version=1, trained=frozenset({"2"}), vocabulary=9)
    samples = build_samples(made, centre, SampleConfig(mask_cut_off=True), admission)
    assert samples.rollouts == sum(len(trajectories) for trajectories in groups)
    assert samples.trained + sum(samples.dropped.values()) == samples.rollouts
    assert samples.trained == len(samples.samples) - samples.splits


some_ids = st.lists(st.integers(0, 2), min_size=1)


@given(st.lists(st.builds(turn, some_ids, some_ids), min_size=1, max_size=5))
def test_rows_hold_every_completion_token_in_order(turns: list[object]):
    samples = build_samples([with_rival(*turns)], centre)
    rows = [row for row in samples.samples if row.trajectory_id == "a"]
    learned = [token for row in rows for token, on in zip(row.token_ids, row.loss_mask, strict=True) if on]
    assert learned == [token for one in turns for token in one.completion_ids]


@pytest.mark.parametrize("logprob", [-9999.0, 0.7, 1e30])
def test_a_logprob_that_no_sampler_has_is_not_learned_from(logprob: float):
    samples = build_samples([with_rival(turn([1], [2], logprob=logprob))], centre)
    assert samples.dropped == {Dropped.IMPOSSIBLE_NUMBERS: 1}
    assert samples.trained == 1


def test_a_reward_beyond_what_can_be_learned_from_is_refused():
    one = group("g", [scored("a", 1e300, [turn([1], [2])]), scored("b", 0.0, [turn([1], [3])])])
    assert build_samples([one], centre).dropped == {Dropped.IMPOSSIBLE_NUMBERS: 2}


def test_nothing_is_learned_of_the_first_token_of_a_row():
    one = build_samples([with_rival(turn([], [2, 3]))], centre).samples[0]
    assert (one.loss_mask, one.logprobs) == ((False, True), (0.0, -1.0))
