"""Plays groups where the rollout API wants some, and hands them over.

What breaks outside of the policy is a Failure in a group. Where nothing but failures comes, the server slows down, and
where that does not pass, it ends and says why.
"""

import asyncio
from time import monotonic
from uuid import uuid4

import httpx

from core.errors import BoundaryError, PolicyError
from core.logs import get_logger
from core.types import Failure, ScoredGroup, StopReason, Trajectory
from environments.completion_client import root_of
from environments.episode import failure_of
from services.arena import RolloutsConfig
from services.environment_server.player import Player
from services.environment_server.record import GroupFile, GroupRecord
from services.environment_server.task_order import OwnTasks, TaskSource
from services.ready import answers, wait_until_ready
from services.rollout_api.messages import Demand
from services.sdk.base import GroupRefused, RolloutApi

log = get_logger("environment_server")

WAIT_SECONDS = 20.0
FULL_SECONDS = 20.0
"""How often a server that has no room says what it makes: one that is silent is forgotten, with its groups."""
LOST_IN_A_ROW = 64
"""Groups without a single score, one after another, after which it is no accident any more."""
LONGEST_PAUSE_SECONDS = 30.0
HEALTH_SECONDS = 5.0


def health_of(policy_url: str) -> str:
    """Where a policy's server says that it is there."""
    return f"{root_of(policy_url)}/health"


class NothingButFailures(BoundaryError):
    """No episode comes to an end; the message is what the last one died of."""

    def __init__(self, failure: Failure) -> None:
        self.boundary = failure.boundary
        super().__init__(f"{LOST_IN_A_ROW} groups in a row were lost at the boundary {failure.boundary!r}: {failure.message}")


class EnvironmentServer:
    """Plays groups of one environment until the run is finished."""

    def __init__(self, player: Player, client: RolloutApi, config: RolloutsConfig, policy_url: str) -> None:
        self._player, self._client, self._config = player, client, config
        self._health = health_of(policy_url)
        self._worker = f"{player.name}-{uuid4().hex[:8]}"
        self._playing: set[asyncio.Task[None]] = set()
        self._running = 0
        """Groups that the rollout API has not confirmed yet."""
        self._lost_in_a_row = 0
        self._last_failure: Failure | None = None

    async def run(self, records: GroupFile, source: TaskSource | None = None) -> None:
        """Play until the run is finished; what is being played then is dropped, its sandboxes freed.

        Tasks come from `source`, or all of them in an order of its own. Raises QueueError where the rollout API stays
        away, NothingButFailures, and what `source` raises.
        """
        source = source or OwnTasks(self._player.tasks(), self._config.seed, self._worker)
        name = self._player.name
        await wait_until_ready(self._client.ready_url, "the rollout API")
        await self._client.register_environment(name)
        log.info("serving", environment=name, worker=self._worker)
        try:
            async with asyncio.TaskGroup() as owner:
                while await self._start_wanted(owner, source, records):
                    await self._recover()
                for playing in self._playing:
                    playing.cancel()
        except* BoundaryError as errors:
            raise errors.exceptions[0] from None
        log.info("run_finished", environment=name)

    async def _start_wanted(self, owner: asyncio.TaskGroup, source: TaskSource, records: GroupFile) -> bool:
        """Start the groups that are wanted now; False when there will be no more."""
        if len(self._playing) >= self._config.max_groups:
            await asyncio.wait(self._playing, timeout=FULL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        name, room = self._player.name, self._config.max_groups - len(self._playing)
        wait_seconds = WAIT_SECONDS if room else 0.0
        demand = await self._client.demand(name, self._running, worker=self._worker, wait_seconds=wait_seconds, most=room)
        for _ in range(min(demand.groups, room)):
            self._running += 1
            playing = owner.create_task(self._play(source, demand, records))
            self._playing.add(playing)
            playing.add_done_callback(self._playing.discard)
        return not demand.finished

    async def _play(self, source: TaskSource, demand: Demand, records: GroupFile) -> None:
        assignment = await source.take()
        started = monotonic()
        group = await self._player.play(assignment, demand)
        played = monotonic()
        group = await self._handed_over(group)
        self._running -= 1
        await source.done(assignment.group_id)
        records.write(GroupRecord.of(group, play_seconds=played - started, post_seconds=monotonic() - played))
        self._note(group)

    async def _handed_over(self, group: ScoredGroup) -> ScoredGroup:
        """What the rollout API took: the group, or where it will never take that one, the news that it was lost."""
        try:
            await self._client.post_group(group, worker=self._worker)
            return group
        except GroupRefused as error:
            log.warning("group_refused", group=group.id, problem=str(error))
            group = _lost(group, failure_of(error))
        await self._client.post_group(group, worker=self._worker)
        return group

    def _note(self, group: ScoredGroup) -> None:
        self._lost_in_a_row = 0 if group.scored else self._lost_in_a_row + 1
        failures = [one.failure for one in group.failed if one.failure is not None]
        if failures:
            self._last_failure = failures[-1]

    async def _recover(self) -> None:
        """After groups that were lost whole: wait a little longer each time, and for a policy that went away."""
        if not self._lost_in_a_row or self._last_failure is None:
            return
        if self._last_failure.boundary == PolicyError.boundary and not await self._policy_answers():
            await wait_until_ready(self._health, "the policy")
            self._lost_in_a_row = 0  # they were lost with it
            return
        if self._lost_in_a_row >= LOST_IN_A_ROW:
            raise NothingButFailures(self._last_failure)
        pause = min(LONGEST_PAUSE_SECONDS, 0.1 * 2 ** min(self._lost_in_a_row, 10))
        log.warning("groups_lost", in_a_row=self._lost_in_a_row, pause_seconds=pause, problem=self._last_failure.message)
        await asyncio.sleep(pause)

    async def _policy_answers(self) -> bool:
        async with httpx.AsyncClient(timeout=HEALTH_SECONDS, trust_env=False) as http:
            return await answers(http, self._health)


def _lost(group: ScoredGroup, failure: Failure) -> ScoredGroup:
    """The same group without anything that its members said."""
    members = tuple(
        Trajectory(id=one.id, task_id=one.task_id, turns=(), stop=StopReason.FAILED, failure=failure, seconds=one.seconds)
        for one in group.trajectories
    )
    return group.model_copy(update={"trajectories": members})
