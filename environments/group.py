"""A group: G episodes of one task at once, so that their rewards can be compared."""

import asyncio
import hashlib
from uuid import uuid4

from core.logs import get_logger
from core.types import ScoredGroup, Task
from environments.episode import Arena, run_episode

log = get_logger("group")


async def run_group(arena: Arena, task: Task, size: int, group_id: str | None = None) -> ScoredGroup:
    """G = `size` episodes of a task, in order of their ids `GROUP-0` to `GROUP-(G-1)`.

    An episode that was lost holds a Failure and costs the others nothing. Cancellation frees every sandbox.
    """
    name = group_id or uuid4().hex
    task = arena.environment.of_group(task, seed_of(name))
    async with asyncio.TaskGroup() as tasks:
        episodes = [tasks.create_task(run_episode(arena, task, f"{name}-{index}")) for index in range(size)]
    group = ScoredGroup(
        id=name, environment=arena.environment.name, task=task, trajectories=tuple(one.result() for one in episodes)
    )
    mean = sum(group.rewards) / len(group.rewards) if group.rewards else None
    log.info("group_scored", group=name, task=task.id, scored=len(group.scored), lost=len(group.failed), reward_mean=mean)
    return group


def seed_of(group_id: str) -> int:
    """The number from which everything is drawn that the members of a group share; the same id gives the same one."""
    return int.from_bytes(hashlib.sha256(group_id.encode()).digest()[:6])
