"""Who plays groups for an environment server."""

from collections.abc import Sequence
from typing import Protocol

from core.types import ScoredGroup, Task
from environments.episode import Arena
from environments.group import run_group
from services.environment_server.task_order import Assignment, tasks_to_train_on
from services.rollout_api.messages import Demand


class Player(Protocol):
    """An environment with all that it needs to be played."""

    name: str
    """Of the environment."""

    def tasks(self) -> Sequence[Task]:
        """What there is to play. Raises ConfigError where there is nothing."""
        ...

    async def play(self, assignment: Assignment, demand: Demand) -> ScoredGroup:
        """One group. What breaks is a Failure in it."""
        ...


class ArenaPlayer:
    """Plays episodes of an Environment in an arena."""

    def __init__(self, arena: Arena) -> None:
        self._arena, self.name = arena, arena.environment.name

    def tasks(self) -> Sequence[Task]:
        """See Player."""
        return tasks_to_train_on(self._arena.environment)

    async def play(self, assignment: Assignment, demand: Demand) -> ScoredGroup:
        """See Player."""
        return await run_group(self._arena, assignment.task, demand.group_size, assignment.group_id)
