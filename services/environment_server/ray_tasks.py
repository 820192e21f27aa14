"""One order of tasks for many environment servers, of which any may die.

A task belongs to the server that took it until its group was accepted. Where that server is lost the task is handed out
again, under the same group id: a group that had been accepted just before counts once all the same.
"""

from collections import deque
from collections.abc import Awaitable, Sequence
from itertools import count
from typing import Protocol
from uuid import uuid4

from core.errors import QueueError
from core.types import Task
from services.environment_server.task_order import Assignment, shuffled_for_ever


class TaskBook:
    """Who plays what. Lives in one place, beside whoever watches the servers."""

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        self._order = shuffled_for_ever(tasks, seed)
        self._numbers, self._name = count(), uuid4().hex[:8]
        self._again: deque[Assignment] = deque()
        self._playing: dict[str, dict[str, Assignment]] = {}
        self._lost: set[str] = set()

    def take(self, server: str) -> Assignment | None:
        """The next task for that server, those of lost servers first; None for one that was declared lost itself."""
        if server in self._lost:
            return None
        assignment = self._again.popleft() if self._again else self._new()
        self._playing.setdefault(server, {})[assignment.group_id] = assignment
        return assignment

    def done(self, server: str, group_id: str) -> None:
        """That group was accepted; also where the server has been declared lost in the meantime."""
        self._playing.get(server, {}).pop(group_id, None)
        self._again = deque(one for one in self._again if one.group_id != group_id)

    def lose(self, server: str) -> int:
        """That server is gone: its tasks are handed out again. Returns how many."""
        self._lost.add(server)
        left = self._playing.pop(server, {})
        self._again.extend(left.values())
        return len(left)

    def _new(self) -> Assignment:
        return Assignment(f"ray-{self._name}-{next(self._numbers)}", next(self._order))


class Book(Protocol):
    """A TaskBook in another process."""

    def take(self, server: str) -> Awaitable[Assignment | None]:
        """See TaskBook.take."""
        ...

    def done(self, server: str, group_id: str) -> Awaitable[None]:
        """See TaskBook.done."""
        ...


class SharedTasks:
    """The TaskSource of one server of a fleet."""

    def __init__(self, book: Book, server: str) -> None:
        self._book, self._server = book, server

    async def take(self) -> Assignment:
        """See TaskSource.take."""
        assignment = await self._book.take(self._server)
        if assignment is None:
            raise QueueError(f"the fleet has given environment server {self._server} up; others play its tasks")
        return assignment

    async def done(self, group_id: str) -> None:
        """See TaskSource.done."""
        await self._book.done(self._server, group_id)
