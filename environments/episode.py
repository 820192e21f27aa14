"""One episode: a sandbox, the loop, the reward in the same sandbox, and a Trajectory whatever happened.

Nothing turns an error into a score: what broke becomes a Failure that names its boundary.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from backends.base import Backend, Sandbox, SandboxSpec
from backends.pool import SandboxPool
from core.clock import Clock, SystemClock
from core.errors import BoundaryError, RewardError, SandboxError, boundary
from core.logs import get_logger
from core.types import Failure, Reward, StopReason, Task, Trajectory
from environments.agent_loop import AgentLoop, Episode, EpisodeLimits, Record
from environments.base import Environment
from environments.policy import Policy
from environments.tool_context import ToolContext
from tool_call_parsers.rendering import count_forks

log = get_logger("episode")

DESTROY_SECONDS = 60.0
MAX_MESSAGE_CHARACTERS = 2000


@dataclass(frozen=True)
class Arena:
    """Where episodes are played: whose tasks, by whom, in what sandboxes, within what limits."""

    environment: Environment
    policy: Policy
    backend: Backend
    limits: EpisodeLimits = field(default_factory=EpisodeLimits)
    clock: Clock = field(default_factory=SystemClock)
    pool: SandboxPool | None = None
    """Leases sandboxes in place of `backend`, ready before they are wanted; all tasks need the pool's spec then."""

    def lease(self, task: Task) -> AbstractAsyncContextManager[Sandbox]:
        """A sandbox for one episode of a task, destroyed after it."""
        return self.pool.lease() if self.pool else lease(self.backend, self.environment.sandbox(task))


@dataclass(frozen=True)
class _Outcome:
    stop: StopReason
    reward: Reward | None = None
    failure: Failure | None = None


async def run_episode(arena: Arena, task: Task, episode_id: str) -> Trajectory:
    """Play one episode. Raises nothing but cancellation, which frees the sandbox first."""
    started, record = arena.clock.monotonic(), Record()
    try:
        outcome = await _play(arena, task, episode_id, record)
    except Exception as error:
        outcome = _Outcome(StopReason.FAILED, failure=failure_of(error))
    trajectory = Trajectory(
        id=episode_id,
        task_id=task.id,
        turns=tuple(record.turns),
        stop=outcome.stop,
        reward=outcome.reward,
        failure=outcome.failure,
        seconds=arena.clock.monotonic() - started,
        timings=record.timings,
    )
    _log_end(trajectory)
    return trajectory


def failure_of(error: Exception) -> Failure:
    """What broke, as a value: the boundary of an error that names one, `environment` for any other."""
    kind = error.boundary if isinstance(error, BoundaryError) else "environment"
    return Failure(boundary=kind, error=type(error).__name__, message=str(error)[:MAX_MESSAGE_CHARACTERS])


@asynccontextmanager
async def lease(backend: Backend, spec: SandboxSpec) -> AsyncIterator[Sandbox]:
    """A fresh sandbox, destroyed at the end whatever happens, cancellation included."""
    with boundary(SandboxError, f"{backend.name}.create"):
        sandbox = await backend.create(spec)
    try:
        yield sandbox
    finally:
        destroying = asyncio.create_task(_destroy(sandbox))
        try:
            await asyncio.shield(destroying)
        except asyncio.CancelledError:
            await destroying
            raise


async def _play(arena: Arena, task: Task, episode_id: str, record: Record) -> _Outcome:
    environment, tools = arena.environment, arena.environment.tools(task)
    started = arena.clock.monotonic()
    async with arena.lease(task) as sandbox, ToolContext(sandbox) as context:
        with boundary(SandboxError, f"{environment.name}.prepare"):
            await environment.prepare(task, context)
        record.timings["sandbox"] = arena.clock.monotonic() - started
        episode = Episode(episode_id, task, tools, context, record)
        max_turns = arena.limits.turns or environment.max_turns
        stop = await AgentLoop(arena.policy, arena.limits, arena.clock).run(episode, max_turns)
        return _Outcome(stop, reward=await _reward(arena, episode))


async def _reward(arena: Arena, episode: Episode) -> Reward:
    name, record = f"{arena.environment.name}.reward", episode.record
    with record.timed("reward", arena.clock), boundary(RewardError, name):
        async with asyncio.timeout(arena.limits.reward_seconds):
            return await arena.environment.reward(episode.task, tuple(record.turns), episode.context)


async def _destroy(sandbox: Sandbox) -> None:
    """Free a sandbox. A verdict that was reached stands even where this fails."""
    try:
        async with asyncio.timeout(DESTROY_SECONDS):
            await sandbox.destroy()
    except Exception as error:
        log.error("sandbox_not_destroyed", sandbox=sandbox.id, problem=f"{type(error).__name__}: {error}")


def _log_end(trajectory: Trajectory) -> None:
    turns, failure = trajectory.turns, trajectory.failure
    facts = {"episode": trajectory.id, "stop": trajectory.stop.value, "turns": len(turns), "seconds": trajectory.seconds}
    if failure is not None:
        log.warning("episode_failed", **facts, boundary=failure.boundary, error=failure.error, problem=failure.message[:300])
    elif trajectory.reward is not None:
        facts |= {"malformed": sum(turn.malformed for turn in turns), "rolled_back": sum(turn.rolled_back for turn in turns)}
        log.debug("episode_scored", **facts, reward=trajectory.reward.total, forks=count_forks(turns))
