"""The ephemeral system prompt reaches the policy and no record of what was played."""

from core.types import Message, Role
from environments.data_formats import row_of
from environments.ephemeral import SteeredPolicy, steered, told
from environments.episode import Arena
from environments.group import run_group
from tests.fakes import FakeBackend, FakePolicy, Sums, call

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
