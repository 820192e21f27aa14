"""What a policy may do in an episode, and what it is told when it does it wrongly."""

import asyncio

import pytest

from core.clock import SystemClock
from core.types import JsonObject, Role, StopReason, ToolSpec, Trajectory
from environments.agent_loop import EpisodeLimits
from environments.base import Tool
from environments.episode import Arena, run_episode
from environments.policy import OutOfTokens
from environments.tool_context import ToolContext
from tests.fakes import FakeBackend, FakePolicy, Sums, call, object_schema


async def play(*lines: object, limits: EpisodeLimits | None = None, extra: tuple[Tool, ...] = ()) -> Trajectory:
    environment = Sums(extra)
    arena = Arena(environment, FakePolicy(lines), FakeBackend(), limits or EpisodeLimits())  # type: ignore[arg-type]
    return await run_episode(arena, environment.task(2), "e")


def answers(trajectory: Trajectory, turn: int = 0) -> list[str]:
    return [message.content for message in trajectory.turns[turn].observations]


def tool(name: str, answer: str | Exception) -> Tool:
    async def run(context: ToolContext, arguments: JsonObject) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Tool(ToolSpec(name=name, description="", parameters=object_schema()), run)


async def test_a_tool_that_ends_the_episode_ends_it():
    trajectory = await play(call("write", text="4"), call("finish"))
    assert (trajectory.stop, len(trajectory.turns)) == (StopReason.FINISHED, 2)


async def test_an_answer_without_a_call_ends_the_episode():
    assert (await play("It is 4.")).stop is StopReason.FINISHED


async def test_calls_of_one_turn_run_in_order():
    trajectory = await play(call("look", path="answer") + call("write", text="4") + call("look", path="answer"), "done")
    assert answers(trajectory) == ["answer: no such file", "written", "4"]


async def test_answers_carry_the_ids_of_their_calls():
    turn = (await play(call("write", text="4") + call("wrte"), "done")).turns[0]
    assert [one.tool_call_id for one in turn.observations] == [one.id for one in turn.message.tool_calls]


async def test_calls_behind_the_one_that_ends_the_episode_are_not_run():
    trajectory = await play(call("finish") + call("write", text="4"))
    assert trajectory.reward is not None
    assert trajectory.reward.total == 0.0


async def test_an_unknown_tool_is_answered_with_the_known_ones():
    assert answers(await play(call("wrte", text="4"), "done")) == [
        "no tool 'wrte'; did you mean 'write'?; known: write, look, finish"
    ]


async def test_wrong_arguments_are_answered_with_what_is_wrong():
    assert answers(await play(call("write", txt="4"), "done")) == ["write: 'text' is a required property"]


async def test_a_wrong_use_is_answered_by_the_tool_and_counted():
    trajectory = await play(call("write", text="four") + call("wrte"), call("write", text="4"), "done")
    assert answers(trajectory)[0] == "'four' is not a number"
    assert [(turn.mistakes, turn.malformed) for turn in trajectory.turns] == [(1, 1), (0, 0), (0, 0)]


async def test_a_block_that_is_no_call_is_answered_by_the_user():
    turn = (await play("<tool_call>{]</tool_call>", "done")).turns[0]
    assert [one.role for one in turn.observations] == [Role.USER]
    assert "not JSON" in turn.observations[0].content


async def test_calls_that_cannot_be_used_are_counted():
    line = call("wrte", text="4") + call("write", txt="4") + "<tool_call>{]</tool_call>" + call("write", text="4")
    assert (await play(line, "done")).turns[0].malformed == 3


async def test_turns_are_limited_by_the_environment():
    trajectory = await play(*[call("look", path="x")] * 5)
    assert (trajectory.stop, len(trajectory.turns)) == (StopReason.MAX_TURNS, 4)


async def test_turns_are_limited_by_the_limits():
    trajectory = await play(*[call("look", path="x")] * 5, limits=EpisodeLimits(turns=2))
    assert len(trajectory.turns) == 2


async def test_a_full_conversation_ends_with_what_was_done():
    trajectory = await play(call("write", text="4"), OutOfTokens())
    assert (trajectory.stop, trajectory.reward and trajectory.reward.total) == (StopReason.MAX_TOKENS, 1.0)


async def test_half_a_surrogate_pair_of_a_tool_is_replaced():
    assert answers(await play(call("odd"), "done", extra=(tool("odd", "\udcff"),))) == ["?"]


async def test_a_tool_that_breaks_is_a_failure_that_keeps_the_turns():
    trajectory = await play(call("bad"), extra=(tool("bad", ZeroDivisionError("oops")),))
    assert trajectory.failure is not None
    assert (trajectory.failure.boundary, len(trajectory.turns)) == ("tool", 1)
    assert "ZeroDivisionError: oops" in trajectory.failure.message


async def test_a_tool_that_takes_too_long_stops_the_episode_which_is_scored():
    async def forever(context: ToolContext, arguments: JsonObject) -> str:
        await asyncio.Event().wait()
        return ""

    endless = Tool(ToolSpec(name="wait", description="", parameters=object_schema()), forever)
    trajectory = await play(call("write", text="4") + call("wait"), limits=EpisodeLimits(tool_seconds=0.2), extra=(endless,))
    assert (trajectory.stop, trajectory.reward and trajectory.reward.total) == (StopReason.TIMEOUT, 1.0)
    assert answers(trajectory) == ["written", "stopped: the time for tools is used up"]


class Jumps(SystemClock):
    """Stands still but for jumps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


async def test_the_time_for_tools_is_that_of_all_turns():
    clock = Jumps()

    async def long(context: ToolContext, arguments: JsonObject) -> str:
        await asyncio.sleep(0)
        clock.seconds += 200
        return "slept"

    environment = Sums([Tool(ToolSpec(name="nap", description="", parameters=object_schema()), long)])
    arena = Arena(environment, FakePolicy([call("nap")] * 4), FakeBackend(), EpisodeLimits(tool_seconds=300), clock)
    trajectory = await run_episode(arena, environment.task(2), "e")
    assert (trajectory.stop, len(trajectory.turns), trajectory.timings["tools"]) == (StopReason.TIMEOUT, 3, 400.0)


async def test_a_policy_that_takes_too_long_is_a_failure():
    async def forever(request: object) -> str:
        await asyncio.Event().wait()
        return ""

    trajectory = await play(forever, limits=EpisodeLimits(generation_seconds=0.05))
    assert trajectory.failure is not None
    assert trajectory.failure.boundary == "policy"


@pytest.mark.parametrize("error", [TimeoutError("slow disk"), OSError("gone")])
async def test_an_error_of_a_tool_is_not_taken_for_the_limit(error: Exception):
    trajectory = await play(call("bad"), extra=(tool("bad", error),))
    assert trajectory.failure is not None
    assert trajectory.failure.boundary == "tool"
