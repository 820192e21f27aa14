"""What an environment server needs of a rollout API, whichever dialect that speaks."""

from types import TracebackType
from typing import Protocol, Self

from core.errors import QueueError
from core.types import ScoredGroup
from services.rollout_api.messages import Demand

OF_THIS_GROUP = (413, 422)
"""Answers that speak of what was posted: too large, or not as a group has to be."""


class GroupRefused(QueueError):
    """A group that will never be taken; others may be."""


class RolloutApi(Protocol):
    """Where groups are wanted, and taken. `async with` closes its connections."""

    ready_url: str
    """A path that answers with 200 once the API takes work."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def register_environment(self, name: str) -> None:
        """Make an environment known."""
        ...

    async def demand(
        self, environment: str, running: int, *, worker: str = "", wait_seconds: float = 0.0, most: int | None = None
    ) -> Demand:
        """How many groups to start while `running` are being made, at most `most`; waits for one up to `wait_seconds`."""
        ...

    async def post_group(self, group: ScoredGroup, *, worker: str = "") -> bool:
        """Hand over a group. False where it was accepted before. Raises GroupRefused, and QueueError for everything else."""
        ...
