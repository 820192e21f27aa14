"""The ephemeral system prompt reaches the policy and no record of what was played."""

from pathlib import Path

from core.types import Message, Role, ScoredGroup
from environments.data_formats import DataFormat, row_of
from environments.ephemeral import SteeredPolicy, steered, told
from environments.episode import Arena
from environments.gold_policy import GoldPolicy
from environments.group import run_group
from environments.process import ProcessConfig, generate
from tests.fakes import FakeBackend, FakePolicy, Sums, call
from tests.tool_call_parsers.tiny_model import KEEPS_THINKING, write_model
from tool_call_parsers.rendering import Renderer

WORDS = "Answer in one turn."
LINES = [call("write", text="6"), call("finish")]


async def test_the_policy_reads_the_words_in_every_turn():
    policy = FakePolicy(LINES)
    await run_group(Arena(Sums(), steered(policy, WORDS), FakeBackend()), Sums().task(3), 1)
    assert [request.task.messages[0].content for request in policy.requests] == [WORDS, WORDS]


async def test_no_saved_conversation_holds_the_words():
    group = await run_group(Arena(Sums(), steered(FakePolicy(LINES), WORDS), FakeBackend()), Sums().task(3), 1)
    assert group.rewards == (1.0,)
    assert WORDS not in group.model_dump_json()
    assert WORDS not in str(row_of(group, group.trajectories[0]))


async def test_rows_of_groups_hold_no_token_ids_that_spell_the_words(tmp_path: Path):
    renderer = Renderer.from_directory(write_model(tmp_path, KEEPS_THINKING))
    policy = steered(GoldPolicy(Sums().gold, renderer), WORDS)
    arena, config = Arena(Sums(), policy, FakeBackend()), ProcessConfig(groups=1, group_size=1, form=DataFormat.GROUPS)
    await generate(arena, config, tmp_path / "with.jsonl")
    await generate(arena, config.model_copy(update={"token_ids": False}), tmp_path / "without.jsonl")
    kept, left = (ScoredGroup.model_validate_json((tmp_path / name).read_text()) for name in ("with.jsonl", "without.jsonl"))
    assert WORDS in renderer.decode(kept.trajectories[0].turns[0].prompt_ids)
    assert {turn.prompt_ids + turn.completion_ids + turn.logprobs for turn in left.trajectories[0].turns} == {()}
    assert [turn.message.content for turn in left.trajectories[0].turns] == ["", ""]


def test_words_follow_a_system_message():
    task = Sums().task(3)
    asked = task.model_copy(update={"messages": (Message(role=Role.SYSTEM, content="Be exact."), *task.messages)})
    assert [message.content for message in told(asked, WORDS).messages] == [f"Be exact.\n\n{WORDS}", "What is 3 + 3?"]


async def test_without_words_there_is_nothing_between():
    policy = FakePolicy(LINES)
    assert steered(policy, " ") is policy
    steering = SteeredPolicy(policy, WORDS)
    await steering.aclose()
    assert policy.closed
