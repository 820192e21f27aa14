"""What natgym makes of a group that an environment of Atropos gives."""

import pytest

from core.types import Role
from environments.adapters.atropos_groups import NoSample, lost_group, scored_group

ASSISTANT, USER = {"role": "assistant", "content": "hi"}, {"role": "user", "content": "hello"}
DATA = {
    "tokens": [[1, 2, 3, 4, 5], [1, 2, 6]],
    "masks": [[-100, 2, 3, -100, 5], [-100, -100, 6]],
    "scores": [1, -0.5],
    "inference_logprobs": [[1.0, -0.1, -0.2, 1.0, -0.3], [1.0, 1.0, -0.4]],
    "messages": [[USER, ASSISTANT, USER, {**ASSISTANT, "content": "bye"}], [USER, ASSISTANT]],
}


def test_each_run_of_unmasked_tokens_is_a_turn():
    group = scored_group(DATA, "numbers", "g", 7)
    first, second = group.trajectories
    assert (group.rewards, group.policy_version, group.environment) == ((1.0, -0.5), 7, "numbers")
    assert [turn.prompt_ids for turn in first.turns] == [(1,), (1, 2, 3, 4)]
    assert [turn.completion_ids for turn in first.turns] == [(2, 3), (5,)]
    assert [turn.logprobs for turn in first.turns] == [(-0.1, -0.2), (-0.3,)]
    assert [turn.message.content for turn in first.turns] == ["hi", "bye"]
    assert [(turn.prompt_ids, turn.completion_ids) for turn in second.turns] == [((1, 2), (6,))]
    assert [(said.role, said.content) for said in group.task.messages] == [(Role.USER, "hello")]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"inference_logprobs": None}, "inference_logprobs: there is no row for sequence 0"),
        ({"inference_logprobs": [[1.0, -0.1]] * 2}, "2 inference_logprobs: they belong together"),
        ({"scores": [float("nan"), 0.0]}, "is no number"),
        ({"scores": []}, "scores: there is no row"),
        ({"masks": [[-100] * 5, [-100] * 3]}, "no token that is not masked"),
        ({"tokens": [[1, -2, 3, 4, 5], [1, 2, 6]]}, "greater than or equal to 0"),
        ({"inference_logprobs": [[1.0, float("inf"), -0.2, 1.0, -0.3], [1.0, 1.0, -0.4]]}, "finite number"),
    ],
)
def test_what_is_no_sample_is_a_failure_and_no_score(change: dict, problem: str):
    group = scored_group(DATA | change, "numbers", "g", 0)
    lost = group.trajectories[0]
    assert lost.reward is None
    assert lost.failure is not None
    assert (lost.failure.boundary, problem in lost.failure.message) == ("environment", True), lost.failure.message


def test_messages_are_not_needed():
    group = scored_group({key: value for key, value in DATA.items() if key != "messages"}, "numbers", "g", 0)
    assert [turn.message.content for turn in group.trajectories[0].turns] == ["", ""]


def test_a_group_without_sequences_is_refused():
    with pytest.raises(NoSample, match="without tokens"):
        scored_group({"tokens": []}, "numbers", "g", 0)


def test_a_group_that_broke_is_failures_of_its_size():
    group = lost_group("numbers", "g", 3, RuntimeError("broke"))
    assert [one.failure and one.failure.message for one in group.trajectories] == ["broke"] * 3
