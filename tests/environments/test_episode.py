"""An episode ends as a value, and leaves no sandbox behind."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from backends.base import SandboxLost, SandboxSpec
from backends.pool import SandboxPool
from core.errors import PolicyError
from core.types import JsonObject, Reward, Task, Turn
from environments.agent_loop import EpisodeLimits
from environments.base import Tool
from environments.episode import Arena, run_episode
from environments.gold_policy import GoldPolicy
from environments.group import run_group
from environments.policy import CompletionRequest
from environments.tool_context import ToolContext
from tests.fakes import WRITE, FakeBackend, FakePolicy, FakeSandbox, Sums, call

SUMS = Sums()
GOLD = GoldPolicy(SUMS.gold)


class DiesOnce(FakeBackend):
    """The second sandbox is dead as soon as it was made."""

    async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
        sandbox = await super().create(spec)
        sandbox.destroyed = len(self.made) == 2
        return sandbox


class CannotCreate(FakeBackend):
    async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
        raise OSError("no more processes")


class Undestroyable(FakeSandbox):
    async def destroy(self) -> None:
        raise SandboxLost("it does not answer")


class Stubborn(FakeBackend):
    async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
        return Undestroyable(0, self._answer)


class BrokenReward(Sums):
    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        raise ZeroDivisionError("verifier")


class SlowReward(Sums):
    """The reward of task 1 waits until that of task 2 is done."""

    def __init__(self) -> None:
        super().__init__()
        self.other_done = asyncio.Event()

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        if task.id == "sum-1":
            await self.other_done.wait()
        self.other_done.set()
        return await super().reward(task, turns, context)


async def test_gold_earns_the_full_reward():
    trajectory = await run_episode(Arena(SUMS, GOLD, FakeBackend()), SUMS.task(2), "e")
    assert trajectory.reward == Reward.of({"turns": 2.0}, correct=1.0)


async def test_seconds_are_split_by_phase():
    trajectory = await run_episode(Arena(SUMS, GOLD, FakeBackend()), SUMS.task(2), "e")
    assert set(trajectory.timings) == {"sandbox", "generation", "tools", "reward"}


async def test_the_sandbox_is_destroyed_after_a_score():
    backend = FakeBackend()
    await run_episode(Arena(SUMS, GOLD, backend), SUMS.task(2), "e")
    assert [sandbox.destroyed for sandbox in backend.made] == [True]


async def test_the_sandbox_is_destroyed_after_a_failure():
    backend = FakeBackend()
    await run_episode(Arena(BrokenReward(), GOLD, backend), SUMS.task(2), "e")
    assert [sandbox.destroyed for sandbox in backend.made] == [True]


async def test_the_sandbox_is_destroyed_on_cancellation():
    backend, asked = FakeBackend(), asyncio.Event()

    async def forever(request: object) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    playing = asyncio.create_task(run_episode(Arena(SUMS, FakePolicy([forever]), backend), SUMS.task(2), "e"))
    await asked.wait()
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert [sandbox.destroyed for sandbox in backend.made] == [True]


async def test_a_second_cancellation_waits_until_the_sandbox_is_destroyed():
    destroying, go_on, backend = asyncio.Event(), asyncio.Event(), FakeBackend()

    class Slow(FakeSandbox):
        async def destroy(self) -> None:
            destroying.set()
            await go_on.wait()
            await super().destroy()

    class SlowBackend(FakeBackend):
        async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
            backend.made.append(Slow(0, self._answer))
            return backend.made[0]

    playing = asyncio.create_task(run_episode(Arena(SUMS, GOLD, SlowBackend()), SUMS.task(2), "e"))
    await destroying.wait()
    playing.cancel()
    asyncio.get_running_loop().call_later(0.02, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert backend.made[0].destroyed


async def test_a_score_stands_where_the_sandbox_cannot_be_destroyed():
    trajectory = await run_episode(Arena(SUMS, GOLD, Stubborn()), SUMS.task(2), "e")
    assert trajectory.reward is not None


@pytest.mark.parametrize(
    ("arena", "boundary"),
    [
        (Arena(SUMS, FakePolicy([PolicyError("no answer")]), FakeBackend()), "policy"),
        (Arena(SUMS, FakePolicy([KeyError("bug")]), FakeBackend()), "policy"),
        (Arena(SUMS, GOLD, CannotCreate()), "sandbox"),
        (Arena(BrokenReward(), GOLD, FakeBackend()), "reward"),
    ],
    ids=["policy", "bug in the policy", "sandbox", "reward"],
)
async def test_what_breaks_is_a_failure_that_names_its_boundary(arena: Arena, boundary: str):
    trajectory = await run_episode(arena, SUMS.task(2), "e")
    assert trajectory.failure is not None
    assert (trajectory.failure.boundary, trajectory.reward) == (boundary, None)


async def test_a_reward_that_takes_too_long_is_a_failure():
    arena = Arena(SlowReward(), FakePolicy(["4"]), FakeBackend(), EpisodeLimits(reward_seconds=0.05))
    trajectory = await run_episode(arena, SUMS.task(1), "e")
    assert trajectory.failure is not None
    assert trajectory.failure.boundary == "reward"


async def test_a_slow_reward_does_not_hold_up_another_episode():
    arena = Arena(SlowReward(), FakePolicy(["4"]), FakeBackend(), EpisodeLimits(reward_seconds=20))
    waiting = asyncio.create_task(run_episode(arena, SUMS.task(1), "slow"))
    quick = await run_episode(arena, SUMS.task(2), "quick")
    assert quick.reward is not None
    assert (await waiting).reward is not None


async def test_group_keeps_its_scores_when_one_sandbox_dies():
    group = await run_group(Arena(SUMS, FakePolicy([call("write", text="4"), "done"]), DiesOnce()), SUMS.task(2), 3)
    assert group.rewards == (1.0, 1.0)
    assert [lost.failure and lost.failure.boundary for lost in group.failed] == ["sandbox"]


async def test_sandboxes_can_come_from_a_pool():
    backend = FakeBackend()
    async with SandboxPool(backend, SandboxSpec(), 2, warm=1) as pool:
        group = await run_group(Arena(SUMS, GOLD, backend, pool=pool), SUMS.task(2), 4)
    assert group.rewards == (1.0,) * 4
    assert all(sandbox.destroyed for sandbox in backend.made)


async def test_a_group_and_its_episodes_are_named_by_the_caller():
    group = await run_group(Arena(SUMS, GOLD, FakeBackend()), SUMS.task(2), 2, "g7")
    assert (group.id, [one.id for one in group.trajectories]) == ("g7", ["g7-0", "g7-1"])


async def test_episodes_of_a_group_run_at_once():
    together = asyncio.Barrier(4)

    async def meet(request: object) -> str:
        await together.wait()
        return "done"

    group = await run_group(Arena(SUMS, FakePolicy([meet]), FakeBackend()), SUMS.task(2), 4)
    assert len(group.scored) == 4


async def test_a_thousand_episodes_play_at_once():
    backend = FakeBackend()
    group = await run_group(Arena(SUMS, GOLD, backend), SUMS.task(2), 1000)
    assert (len(group.scored), sum(sandbox.destroyed for sandbox in backend.made)) == (1000, 1000)


class Furnished(Sums):
    """Its sandboxes begin with a file that the policy reads; what its tools open is counted."""

    def __init__(self) -> None:
        self.log: list[str] = []
        super().__init__([Tool(WRITE.spec.model_copy(update={"name": "open"}), self._open)])

    async def prepare(self, task: Task, context: ToolContext) -> None:
        await context.write_text("hint", str(task.data["sum"]))

    async def _open(self, context: ToolContext, arguments: JsonObject) -> str:
        @asynccontextmanager
        async def opened() -> AsyncIterator[str]:
            self.log.append("opened")
            yield "kept"
            self.log.append("closed")

        return await context.held("thing", opened)

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        self.log.append("scored")
        return await super().reward(task, turns, context)


class Unfurnished(Sums):
    async def prepare(self, task: Task, context: ToolContext) -> None:
        raise OSError("no space left")


async def test_a_sandbox_begins_with_what_the_environment_puts_there():
    policy = FakePolicy([call("look", path="hint"), ""])
    trajectory = await run_episode(Arena(Furnished(), policy, FakeBackend()), SUMS.task(4), "e")
    assert trajectory.turns[0].observations[0].content == "8"


async def test_what_cannot_be_prepared_is_a_failure_of_the_sandbox():
    trajectory = await run_episode(Arena(Unfurnished(), GOLD, FakeBackend()), SUMS.task(4), "e")
    assert trajectory.failure
    assert (trajectory.failure.boundary, trajectory.failure.message) == ("sandbox", "sums.prepare: OSError: no space left")


async def test_what_tools_opened_is_open_once_and_closed_after_the_reward():
    environment = Furnished()
    policy = FakePolicy([call("open", text="1"), call("open", text="2"), ""])
    trajectory = await run_episode(Arena(environment, policy, FakeBackend()), environment.task(4), "e")
    assert [turn.observations[0].content for turn in trajectory.turns[:2]] == ["kept", "kept"]
    assert environment.log == ["opened", "scored", "closed"]


async def test_a_task_is_varied_once_for_all_members_of_a_group():
    class Varied(Sums):
        def of_group(self, task: Task, seed: int) -> Task:
            return task.model_copy(update={"seed": seed})

    first, again, other = [await run_group(Arena(Varied(), GOLD, FakeBackend()), SUMS.task(1), 2, name) for name in "aab"]
    assert first.task.seed == again.task.seed != other.task.seed


class Unscored(Furnished):
    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        raise ZeroDivisionError("verifier")


async def test_what_tools_opened_is_closed_where_the_episode_is_lost():
    environment = Unscored()
    policy = FakePolicy([call("open", text="1"), ""])
    trajectory = await run_episode(Arena(environment, policy, FakeBackend()), environment.task(4), "e")
    assert trajectory.failure
    assert environment.log == ["opened", "closed"]


async def test_what_tools_opened_is_closed_where_the_episode_is_cancelled():
    environment, asked = Furnished(), asyncio.Event()

    async def never(request: CompletionRequest) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    policy = FakePolicy([call("open", text="1"), never])
    episode = asyncio.create_task(run_episode(Arena(environment, policy, FakeBackend()), environment.task(4), "e"))
    await asyncio.wait_for(asked.wait(), 60)
    episode.cancel()
    with pytest.raises(asyncio.CancelledError):
        await episode
    assert environment.log == ["opened", "closed"]
