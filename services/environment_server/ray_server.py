"""One environment server with its sandboxes, as an actor of Ray on one node of a cluster."""

import asyncio
from typing import NamedTuple

from core.errors import NatgymError
from core.logs import configure
from core.settings import Settings
from services.environment_server.process import environment_server
from services.environment_server.ray_tasks import Assignment, SharedTasks
from services.environment_server.record import GroupFile
from services.run_file import RunFile


class Order(NamedTuple):
    """What every server of a fleet is to do."""

    environment: str
    file: RunFile
    """Without a path: nodes do not share files."""
    settings: Settings


class Ended(NamedTuple):
    """How a server ended: the run is finished where there is no problem."""

    problem: str = ""
    exit_code: int = 0


class ServerActor:
    """Plays until the run is finished or it is told to stop. Its sandboxes are processes of its own node."""

    def __init__(self, order: Order) -> None:
        configure(order.settings.log_level, json_lines=order.settings.log_json)
        self._order = order
        self._playing: asyncio.Task[None] | None = None

    async def play(self, name: str, book: object) -> Ended:
        """Play tasks of the fleet's book, as the server of that name. An error of natgym is an answer, not a crash."""
        self._playing = asyncio.get_running_loop().create_task(self._play(SharedTasks(RemoteBook(book), name)))
        try:
            await asyncio.shield(self._playing)
        except NatgymError as error:
            return Ended(" ".join(str(error).split()), error.exit_code)
        except asyncio.CancelledError:
            return Ended("stopped")
        return Ended()

    async def stop(self) -> None:
        """End what is being played, and free the sandboxes."""
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.wait([self._playing])

    async def _play(self, source: SharedTasks) -> None:
        async with environment_server(*self._order) as server:
            await server.run(GroupFile(None), source)


class RemoteBook:
    """The Book behind a handle of Ray."""

    def __init__(self, handle: object) -> None:
        self._handle = handle

    async def take(self, server: str) -> Assignment | None:
        """See TaskBook.take."""
        return await self._handle.take.remote(server)  # type: ignore[attr-defined]

    async def done(self, server: str, group_id: str) -> None:
        """See TaskBook.done."""
        await self._handle.done.remote(server, group_id)  # type: ignore[attr-defined]
