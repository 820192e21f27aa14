"""Episodes of all fates leave nothing behind, and none of them holds up or ends another."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from backends.base import Backend, Sandbox, SandboxSpec
from backends.pool import SandboxPool
from core.config import Config
from core.errors import PolicyError
from core.types import JsonObject, Reward, StopReason, Task, ToolSpec, Trajectory, Turn
from environments.agent_loop import EpisodeLimits
from environments.base import Tool
from environments.episode import Arena, run_episode
from environments.group import run_group
from environments.policy import Completion, CompletionRequest
from environments.tool_context import ToolContext
from environments.tools.terminal import terminal_tools
from environments.toolsets import Toolbox, ToolsConfig
from tests.backends.processes import children
from tests.environments.sandboxes import any_backend
from tests.fakes import FakeBackend, FakePolicy, Sums, call, object_schema

FATES = ("succeeds", "policy breaks", "tool breaks", "reward breaks", "tool takes too long", "cancelled", "cannot begin")
EPISODES = 50


class Counting:
    """A backend that remembers the sandboxes that it made."""

    def __init__(self, backend: Backend) -> None:
        self.name, self._backend = backend.name, backend
        self.made: list[Sandbox] = []

    async def create(self, spec: SandboxSpec, **asked: object) -> Sandbox:
        self.made.append(await self._backend.create(spec))
        return self.made[-1]


class Fates(Sums):
    """Each episode opens a shell and something of its own, and then ends as its task says."""

    def __init__(self, config: Config | None = None) -> None:
        self.open, self.opened = 0, 0
        self.waiting = defaultdict[str, asyncio.Event](asyncio.Event)
        """By task: a tool of its episode waits for ever."""
        breaks = Tool(ToolSpec(name="go_on", description="", parameters=object_schema()), self._go_on)
        super().__init__((*terminal_tools(), breaks))

    def task_of(self, fate: str, number: int) -> Task:
        return self.task(2).model_copy(update={"data": {"sum": 4, "fate": fate}, "id": f"{fate}-{number}"})

    async def prepare(self, task: Task, context: ToolContext) -> None:
        @asynccontextmanager
        async def held() -> AsyncIterator[None]:
            self.open, self.opened = self.open + 1, self.opened + 1
            try:
                yield
            finally:
                self.open -= 1

        await context.held("fate", held)
        await context.write_text("task", task.id)
        if task.data["fate"] == "cannot begin":
            raise OSError("no such image")

    async def _go_on(self, context: ToolContext, arguments: JsonObject) -> str:
        task_id = await context.read_text("task")
        fate = task_id.partition("-")[0]
        if fate == "tool breaks":
            raise ZeroDivisionError("a bug of the tool")
        if fate in ("tool takes too long", "cancelled"):
            self.waiting[task_id].set()
            await asyncio.Event().wait()
        return "gone on"

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        if task.data["fate"] == "reward breaks":
            raise ZeroDivisionError("a bug of the verifier")
        return Reward.of(done=1.0)


class Plays(FakePolicy):
    """A shell that stays open, then what the fate wants."""

    def __init__(self) -> None:
        super().__init__([call("terminal", command="sleep 1000 & echo started"), call("go_on"), "done"])

    async def complete(self, request: CompletionRequest) -> Completion:
        if request.turns and request.task.data["fate"] == "policy breaks":
            raise PolicyError("the server is gone")
        return await super().complete(request)


async def play(environment: Fates, arena: Arena, fate: str, number: int) -> Trajectory | None:
    """One episode; None where it was cancelled, in the middle of a tool."""
    task = environment.task_of(fate, number)
    episode = asyncio.create_task(run_episode(arena, task, task.id))
    if fate == "cancelled":
        await asyncio.wait_for(environment.waiting[task.id].wait(), 60)
        episode.cancel()
        await asyncio.wait([episode])
        return None if episode.cancelled() else episode.result()
    return await episode


async def test_episodes_of_all_fates_leave_no_sandbox_no_session_and_no_process_behind():
    before = children()
    async with any_backend() as real:
        environment, backend = Fates(), Counting(real)
        limits = {True: EpisodeLimits(tool_seconds=1.0), False: EpisodeLimits(tool_seconds=120.0)}
        some = asyncio.Semaphore(5)

        async def one(number: int) -> tuple[str, Trajectory | None]:
            fate = FATES[number % len(FATES)]
            arena = Arena(environment, Plays(), backend, limits[fate == "tool takes too long"])  # type: ignore[arg-type]
            async with some:
                return fate, await play(environment, arena, fate, number)

        ended = await asyncio.gather(*(one(number) for number in range(EPISODES)))
        assert environment.opened == len(backend.made) == EPISODES
        assert environment.open == 0
        assert [await sandbox.alive() for sandbox in backend.made] == [False] * EPISODES
    assert sorted(children()) == sorted(before)
    told = {fate: one.failure.boundary if one.failure else one.stop.value for fate, one in ended if one is not None}
    assert told == {
        "succeeds": "finished",
        "policy breaks": "policy",
        "tool breaks": "tool",
        "reward breaks": "reward",
        "tool takes too long": "timeout",
        "cannot begin": "sandbox",
    }


async def test_a_slow_tool_does_not_hold_up_another_episode():
    other_done = asyncio.Event()

    async def wait(context: ToolContext, arguments: JsonObject) -> str:
        await asyncio.wait_for(other_done.wait(), 60)
        return "waited"

    environment = Sums((Tool(ToolSpec(name="wait", description="", parameters=object_schema()), wait),))
    slow = asyncio.create_task(
        run_episode(Arena(environment, FakePolicy([call("wait"), "4"]), FakeBackend()), environment.task(1), "slow")
    )
    quick = await run_episode(Arena(environment, FakePolicy(["4"]), FakeBackend()), environment.task(2), "quick")
    other_done.set()
    assert quick.reward is not None
    assert [one.content for one in (await slow).turns[0].observations] == ["waited"]


async def test_where_there_is_no_room_episodes_wait_and_none_is_ended_for_another():
    backend, most = FakeBackend(), 0

    async def look_around(request: CompletionRequest) -> str:
        nonlocal most
        most = max(most, sum(not sandbox.destroyed for sandbox in backend.made))
        await asyncio.sleep(0)
        return "done"

    async with SandboxPool(backend, SandboxSpec(), 2) as pool:
        arena = Arena(Sums(), FakePolicy([look_around]), backend, pool=pool)
        group = await run_group(arena, Sums().task(2), 12)
    assert [one.stop for one in group.trajectories] == [StopReason.FINISHED] * 12
    assert (len(backend.made), most <= 2) == (12, True)


class ByChance(Sums):
    """Its toolsets come by chance."""

    def __init__(self, box: Toolbox) -> None:
        super().__init__()
        self._box = box

    def tools(self, task: Task) -> Sequence[Tool]:
        return self._box.of(task)

    def of_group(self, task: Task, seed: int) -> Task:
        return self._box.draw(task.model_copy(update={"tools": self._box.specs}), seed)


async def test_all_members_of_a_group_are_offered_the_same_toolsets_and_groups_differ():
    box = await Toolbox.open(ToolsConfig(chances={"todo": 0.5, "python": 0.5, "terminal": 0.5, "files": 0.5}))
    environment, drawn = ByChance(box), set[tuple[str, ...]]()
    for number in range(12):
        policy = FakePolicy(["done"])
        group = await run_group(Arena(environment, policy, FakeBackend()), environment.task(2), 4, f"group-{number}")
        offered = {tuple(tool.name for tool in request.task.tools) for request in policy.requests}
        assert len(policy.requests) == 4
        assert offered == {tuple(tool.name for tool in group.task.tools)}
        drawn |= offered
    assert len(drawn) > 1
