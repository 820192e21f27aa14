"""In which order the tasks of a split are played, and under which id each group is handed over."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol
from uuid import uuid4

from core.errors import ConfigError
from core.types import Task
from environments.base import Environment, Split


class Assignment(NamedTuple):
    """A task to play, and the id of the group that becomes of it."""

    group_id: str
    task: Task


class TaskSource(Protocol):
    """Where an environment server gets its tasks from."""

    async def take(self) -> Assignment:
        """The next one. Raises BoundaryError where there will be none any more."""
        ...

    async def done(self, group_id: str) -> None:
        """That group was accepted by the rollout API."""
        ...


class OwnTasks:
    """The tasks of a server that works alone."""

    def __init__(self, tasks: Sequence[Task], seed: int, worker: str) -> None:
        self._order, self._worker = shuffled_for_ever(tasks, seed), worker

    async def take(self) -> Assignment:
        """See TaskSource.take; never ends."""
        return Assignment(f"{self._worker}-{uuid4().hex[:12]}", next(self._order))

    async def done(self, group_id: str) -> None:
        """See TaskSource.done; what was being played when a server dies is lost with it."""


def tasks_to_train_on(environment: Environment) -> Sequence[Task]:
    """The training split. Raises ConfigError where it is empty."""
    found = environment.tasks(Split.TRAIN)
    if not found:
        raise ConfigError(f"environment {environment.name!r} has no tasks to train on")
    return found


def shuffled_for_ever(tasks: Sequence[Task], seed: int) -> Iterator[Task]:
    """Every task once an epoch, each epoch in an order of its own that the seed decides."""
    epoch = 0
    while True:
        order = list(tasks)
        random.Random(f"{seed}-{epoch}").shuffle(order)
        yield from order
        epoch += 1
