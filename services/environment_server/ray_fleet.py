"""An environment server on every node of a Ray cluster: `natgym serve env NAME --ray ADDRESS`.

A node that joins gets a server. One that dies takes its server and sandboxes with it: what they had handed over is in the
rollout API, and the tasks that they were playing are played again by others.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import ModuleType
from typing import NamedTuple
from urllib.parse import urlsplit

from core.errors import MissingRuntime, NatgymError, UserError
from core.logs import get_logger
from core.types import Task
from services.arena import RolloutsConfig
from services.bind import is_loopback
from services.environment_server.process import api_url_of, policy_url_of
from services.environment_server.ray_server import Ended, Order, ServerActor
from services.environment_server.ray_tasks import TaskBook
from services.run_file import RunFile, override

log = get_logger("ray_fleet")

LOOK_SECONDS = 2.0
"""How often the nodes are looked at."""
STOP_SECONDS = 15.0
KNOCK_SECONDS = 10.0
LOST_ON_A_NODE = 5
"""Servers that a node may lose while it lives; after that it is left alone."""


class FleetEnded(NatgymError):
    """No node is left that could play."""


class Serving(NamedTuple):
    """A server that plays, and the node that it is on."""

    node: str
    name: str
    actor: object


@contextmanager
def joined(address: str) -> Iterator[ModuleType]:
    """Ray, joined to the cluster of that address until the end of the block.

    To be entered before the event loop runs: Ray sets signal handlers of its own. Raises MissingRuntime and UserError.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        raise MissingRuntime("--ray needs the package 'ray': pip install 'natgym[ray]'") from error
    try:
        _knock(address)
        ray.init(address=address, logging_level=logging.WARNING, log_to_driver=True)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"--ray {address}: no cluster answers there ({first}); `ray start --head` starts one") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself tries for minutes to reach an address where nobody listens. Raises OSError."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


async def serve_fleet(ray: ModuleType, order: Order, tasks: tuple[Task, ...]) -> None:
    """Keep a server playing on every node until the run is finished or the task is cancelled.

    Raises FleetEnded, or UserError where all nodes refuse for something that the user can mend.
    """
    fleet = _Fleet(ray, order._replace(file=portable(order.file)), tasks)
    try:
        await fleet.run()
    finally:
        await fleet.stop()


def portable(file: RunFile) -> RunFile:
    """The same settings without the path of a file, which other machines do not have."""
    sections = file.sections().model_dump(mode="json", exclude_defaults=True)
    settings = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    return RunFile(None, tuple(override(key, value) for key, value in settings.items()))


class _Fleet:
    def __init__(self, ray: ModuleType, order: Order, tasks: tuple[Task, ...]) -> None:
        self._ray, self._order = ray, order
        self._home = ray.get_runtime_context().get_node_id()
        seed = order.file.section("rollouts", RolloutsConfig).seed
        # a server asks only while it starts a group, so the book needs no processor of its own
        self._book = ray.remote(TaskBook).options(num_cpus=0, scheduling_strategy=self._on(self._home)).remote(tasks, seed)
        self._serving: dict[asyncio.Task[Ended], Serving] = {}
        self._lost: Counter[str] = Counter()
        self._refused: dict[str, Ended] = {}
        self._numbers = count(1)
        self._finished = False

    async def run(self) -> None:
        """Watch nodes and servers until the run is finished and every server has ended."""
        while not self._finished or self._serving:
            if not self._finished:
                await self._start_missing()
            if self._serving:
                await asyncio.wait(self._serving, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(LOOK_SECONDS)
            for task in [task for task in self._serving if task.done()]:
                await self._note(self._serving.pop(task), task)

    async def stop(self) -> None:
        """Have every server free its sandboxes; those that do not answer die with the cluster's job."""
        stopping = [asyncio.ensure_future(self._awaited(one.actor.stop.remote())) for one in self._serving.values()]  # type: ignore[attr-defined]
        if stopping:
            await asyncio.wait(stopping, timeout=STOP_SECONDS)
        for task in (*stopping, *self._serving):
            task.cancel()
        await asyncio.gather(*stopping, *self._serving, return_exceptions=True)

    async def _start_missing(self) -> None:
        nodes = await asyncio.to_thread(self._ray.nodes)
        alive = {node["NodeID"]: node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1}
        self._refuse_loopback(alive)
        if alive and not self._serving and all(node in self._refused for node in alive):
            ended = next(iter(self._refused.values()))
            raise (UserError if ended.exit_code == UserError.exit_code else FleetEnded)(f"no node can play: {ended.problem}")
        busy = {one.node for one in self._serving.values()}
        for node in alive.keys() - busy - self._refused.keys():
            self._start(node)

    def _start(self, node: str) -> None:
        name = f"{node[:8]}-{next(self._numbers)}"
        options = {"num_cpus": 1, "scheduling_strategy": self._on(node), "max_restarts": 0}
        actor = self._ray.remote(ServerActor).options(**options).remote(self._order)
        playing = asyncio.ensure_future(self._awaited(actor.play.remote(name, self._book)))
        self._serving[playing] = Serving(node, name, actor)
        log.info("server_started", node=node, server=name)

    async def _note(self, serving: Serving, task: "asyncio.Task[Ended]") -> None:
        """What became of a server."""
        try:
            ended = task.result()
        except self._ray.exceptions.RayTaskError:  # a fault of ours
            raise
        except self._ray.exceptions.RayError as error:
            again = await self._awaited(self._book.lose.remote(serving.name))
            self._lost[serving.node] += 1
            first = str(error).partition("\n")[0]
            log.warning("server_lost", node=serving.node, server=serving.name, tasks_again=again, problem=first)
            if self._lost[serving.node] >= LOST_ON_A_NODE:
                self._refused[serving.node] = Ended(f"{LOST_ON_A_NODE} servers were lost on one node: {first}", 1)
            return
        self._finished = self._finished or not ended.problem
        if ended.problem:
            await self._awaited(self._book.lose.remote(serving.name))
            self._refused[serving.node] = ended
            log.warning("server_gave_up", node=serving.node, server=serving.name, problem=ended.problem)

    def _refuse_loopback(self, alive: dict[str, dict[str, object]]) -> None:
        """Raises UserError where a node could not reach the services."""
        here = alive.get(self._home, {}).get("NodeManagerAddress")
        others = {str(node["NodeManagerAddress"]) for node in alive.values()} - {str(here)}
        for flag, url in (("--api-url", api_url_of(self._order.file)), ("--policy-url", policy_url_of(self._order.file))):
            if here and others and is_loopback(urlsplit(url).hostname or ""):
                raise UserError(f"{flag} {url}: the node {min(others)} cannot reach it; give an address that all nodes reach")

    def _on(self, node: str) -> object:
        return self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)

    async def _awaited(self, reference: object) -> Ended:
        return await reference  # type: ignore[misc]
