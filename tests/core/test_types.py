"""What the dictionary of natgym refuses to hold."""

import pytest
from pydantic import ValidationError

from core.types import (
    Failure,
    Message,
    Reward,
    Role,
    Sample,
    ScoredGroup,
    StopReason,
    Task,
    ToolCall,
    ToolSpec,
    Trajectory,
    Turn,
)

TASK = Task(id="t1", environment="sums", messages=(Message(role=Role.USER, content="1 + 1?"),))
LOST = Failure(boundary="sandbox", error="SandboxLost", message="it died")


def turn(version: int = 0) -> Turn:
    return Turn(message=Message(role=Role.ASSISTANT, content="2"), policy_version=version)


def trajectory(name: str, reward: Reward | None = None, failure: Failure | None = None, version: int = 0) -> Trajectory:
    stop = StopReason.FAILED if failure else StopReason.FINISHED
    return Trajectory(id=name, task_id="t1", turns=(turn(version),), stop=stop, reward=reward, failure=failure)


def test_a_value_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        TASK.id = "t2"


def test_a_value_refuses_a_field_that_it_does_not_know():
    with pytest.raises(ValidationError, match="Extra inputs"):
        Task.model_validate({"id": "t", "environment": "e", "messages": (), "colour": "red"})


def test_a_turn_needs_one_logprob_per_sampled_token():
    with pytest.raises(ValidationError, match="2 completion_ids but 1 logprobs"):
        Turn(message=Message(role=Role.ASSISTANT), completion_ids=(1, 2), logprobs=(-0.5,))


def test_a_turn_refuses_a_logprob_that_is_not_a_number():
    with pytest.raises(ValidationError, match="finite"):
        Turn(message=Message(role=Role.ASSISTANT), completion_ids=(1,), logprobs=(float("nan"),))


def test_a_turn_refuses_a_negative_token_id():
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Turn(message=Message(role=Role.ASSISTANT), prompt_ids=(-1,))


def test_the_total_of_a_reward_is_the_sum_of_its_parts():
    assert Reward.of(correct=1.0, length=-0.25).total == 0.75


def test_a_reward_refuses_a_total_that_its_parts_do_not_add_up_to():
    with pytest.raises(ValidationError, match="not the sum"):
        Reward(total=1.0, parts={"correct": 0.5})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_refuses_a_part_that_is_not_finite(value: float):
    with pytest.raises(ValidationError, match="finite number"):
        Reward(total=value, parts={"correct": value})


def test_metrics_do_not_add_to_the_reward():
    assert Reward.of({"turns": 7.0}, correct=1.0).total == 1.0


def test_a_metric_that_is_not_finite_is_refused():
    with pytest.raises(ValidationError, match="finite number"):
        Reward.of({"turns": float("nan")}, correct=1.0)


@pytest.mark.parametrize(("reward", "failure"), [(None, None), (Reward.of(correct=1.0), LOST)])
def test_a_trajectory_holds_exactly_one_of_reward_and_failure(reward: Reward | None, failure: Failure | None):
    with pytest.raises(ValidationError, match="exactly one"):
        trajectory("a", reward, failure)


def test_a_group_derives_its_rewards_from_what_was_scored():
    group = ScoredGroup(
        id="g",
        environment="sums",
        task=TASK,
        trajectories=(trajectory("a", Reward.of(correct=1.0)), trajectory("b", failure=LOST)),
    )
    assert group.rewards == (1.0,)
    assert [one.id for one in group.scored] == ["a"]
    assert [one.id for one in group.failed] == ["b"]


def test_the_version_of_a_group_is_its_oldest_turn():
    members = tuple(trajectory(str(version), Reward.of(correct=0.0), version=version) for version in (5, 3, 4))
    assert ScoredGroup(id="g", environment="sums", task=TASK, trajectories=members).policy_version == 3


def test_a_group_has_at_least_one_trajectory():
    with pytest.raises(ValidationError, match="at least 1"):
        ScoredGroup(id="g", environment="sums", task=TASK, trajectories=())


def test_a_group_refuses_a_trajectory_of_another_task():
    other = TASK.model_copy(update={"id": "t2"})
    with pytest.raises(ValidationError, match="a trajectory of another task than 't2'"):
        ScoredGroup(id="g", environment="sums", task=other, trajectories=(trajectory("a", Reward.of(correct=1.0)),))


def test_a_group_refuses_two_trajectories_of_one_id():
    twice = (trajectory("a", Reward.of(correct=1.0)), trajectory("a", Reward.of(correct=0.0)))
    with pytest.raises(ValidationError, match="two trajectories share an id"):
        ScoredGroup(id="g", environment="sums", task=TASK, trajectories=twice)


def test_a_group_refuses_a_task_of_another_environment():
    with pytest.raises(ValidationError, match="a group of 'chess' with a task of 'sums'"):
        ScoredGroup(id="g", environment="chess", task=TASK, trajectories=(trajectory("a", Reward.of(correct=1.0)),))


def test_a_sample_refuses_columns_of_different_length():
    with pytest.raises(ValidationError, match="differ in length"):
        Sample(group_id="g", trajectory_id="a", token_ids=(1, 2), loss_mask=(True,), logprobs=(0.0, 0.0), advantages=(0.0, 0.0))


def test_a_message_with_a_tool_call_is_what_the_chat_protocol_wants():
    call = ToolCall(id="c1", name="add", arguments='{"a": 1}')
    message = Message(role=Role.ASSISTANT, reasoning="so", tool_calls=(call,))
    assert message.to_openai() == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "so",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
    }


def test_a_tool_message_names_the_call_that_it_answers():
    body = Message(role=Role.TOOL, content="2", tool_call_id="c1").to_openai()
    assert body == {"role": "tool", "content": "2", "tool_call_id": "c1"}


def test_a_tool_is_offered_as_a_function():
    spec = ToolSpec(name="add", description="sum", parameters={"type": "object"})
    assert spec.to_openai() == {
        "type": "function",
        "function": {"name": "add", "description": "sum", "parameters": {"type": "object"}},
    }
