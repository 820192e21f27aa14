"""Which episodes are kept and why the others are not, and what a row of each form holds."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from core.errors import UserError
from core.types import Failure, Message, Reward, Role, ScoredGroup, StopReason, ToolCall, Trajectory, Turn
from environments.data_formats import DataFormat, rows_of, write_parquet
from environments.selection import Selection, select
from tests.fakes import Sums

TASK = Sums().task(0)


def episode(number: int, total: float, *said: str, malformed: int = 0, mistakes: int = 0) -> Trajectory:
    call = ToolCall(id="c0", name="write_answer", arguments='{"text": "4"}')
    turns = tuple(
        Turn(
            message=Message(role=Role.ASSISTANT, content=text, tool_calls=(call,)),
            observations=(Message(role=Role.TOOL, content="written", tool_call_id="c0"),),
            malformed=malformed,
            mistakes=mistakes,
        )
        for text in said
    )
    reward = Reward.of(correct=total)
    return Trajectory(id=f"g-{number}", task_id=TASK.id, turns=turns, stop=StopReason.FINISHED, reward=reward)


LOST = Trajectory(
    id="g-4",
    task_id=TASK.id,
    turns=(),
    stop=StopReason.FAILED,
    failure=Failure(boundary="sandbox", error="SandboxLost", message="gone"),
)
LONG, MALFORMED = episode(2, 0.5, "x" * 5000), episode(3, 1.0, "a", "b", malformed=1)
EPISODES = (episode(0, 0.0, "no", mistakes=1), episode(1, 1.0, "a", "b"), LONG, MALFORMED)
GROUP = ScoredGroup(id="g", environment="sums", task=TASK, trajectories=(*EPISODES, LOST))


@pytest.mark.parametrize(
    ("wanted", "kept", "left_out"),
    [
        ({}, ["g-0", "g-1", "g-2", "g-3"], {}),
        ({"min_reward": 0.5}, ["g-1", "g-2", "g-3"], {"min_reward": 1}),
        ({"top": 2}, ["g-1", "g-3"], {"top": 2}),
        ({"top": 1, "max_turns": 1}, ["g-2"], {"max_turns": 2, "top": 1}),
        ({"max_malformed": 0}, ["g-0", "g-1", "g-2"], {"max_malformed": 1}),
        ({"max_mistakes": 0}, ["g-1", "g-2", "g-3"], {"max_mistakes": 1}),
        ({"max_characters": 4000}, ["g-0", "g-1", "g-3"], {"max_characters": 1}),
        ({"unique": True}, ["g-0", "g-1", "g-2"], {"duplicate": 1}),
    ],
)
def test_a_condition_keeps_what_meets_it_and_counts_the_others(wanted: dict, kept: list[str], left_out: dict[str, int]):
    selected = select(GROUP, Selection.model_validate(wanted))
    assert ([one.id for one in selected.kept], selected.left_out) == (kept, left_out)


def test_what_was_kept_before_is_a_duplicate():
    wanted = Selection(unique=True)
    assert select(GROUP, wanted, select(GROUP, wanted).digests).kept == []


def test_openai_rows_hold_messages_and_tools():
    row = rows_of(GROUP, EPISODES[1:2], DataFormat.OPENAI)[0]
    assert [one["role"] for one in row["messages"]][-4:] == ["assistant", "tool", "assistant", "tool"]
    assert row["messages"][-2]["tool_calls"][0]["function"] == {"name": "write_answer", "arguments": '{"text": "4"}'}
    assert row["tools"] == [tool.to_openai() for tool in TASK.tools]


def test_a_group_is_read_back_with_what_was_kept():
    (row,) = rows_of(GROUP, EPISODES[:2], DataFormat.GROUPS)
    assert ScoredGroup.model_validate_json(json.dumps(row)) == GROUP.model_copy(update={"trajectories": EPISODES[:2]})


def test_a_pair_is_the_best_that_was_kept_before_the_worst_of_the_group():
    (row,) = rows_of(GROUP, EPISODES[1:3], DataFormat.PAIRS)
    assert (row["chosen_reward"], row["rejected_reward"]) == (1.0, 0.0)
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("a", "no")
    assert row["prompt"] == [one.to_openai() for one in TASK.messages]


def test_episodes_that_earned_the_same_are_no_pair():
    same = GROUP.model_copy(update={"trajectories": (EPISODES[1], EPISODES[3])})
    assert rows_of(same, same.trajectories, DataFormat.PAIRS) == []


@pytest.mark.parametrize("form", DataFormat)
def test_every_form_becomes_parquet(form: DataFormat, tmp_path: Path):
    lines, out = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    rows = rows_of(GROUP, EPISODES[:3], form)
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert write_parquet(lines, out) == len(rows)
    found = pyarrow.parquet.read_table(out).to_pylist()
    assert [one["id"] for one in found] == [row["id"] for row in rows]
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_leaves_no_half_of_a_table(tmp_path: Path):
    import resource

    lines, out = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows_of(GROUP, EPISODES, DataFormat.SHAREGPT)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(UserError, match="can be resumed"):
            write_parquet(lines, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert write_parquet(lines, out) == len(EPISODES)
