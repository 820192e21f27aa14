"""A client of Atropos's `run-api`, for environment servers: natgym's environments feed its trainers.

That server keeps everything in memory and forgets it with its process; posted to before a trainer has registered, it
never serves a batch again. So this client asks before every post, waits where there is no trainer, and registers anew
where it is not known any more.
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from core.errors import QueueError
from core.logs import get_logger
from core.types import JsonObject, ScoredGroup
from services.rollout_api.messages import Demand
from services.sdk.base import OF_THIS_GROUP, GroupRefused
from services.sdk.scored_data import scored_data

ANSWER_SECONDS = 30.0
LOOK_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
MAX_TOKEN_LENGTH = 2**31 - 1  # only the ratio of environments counts there, and natgym bounds lengths itself

log = get_logger("atropos_client")


class AtroposClient:
    """One connection pool to one `run-api`; see RolloutApi. Rides out its restarts for as long as they take."""

    def __init__(self, base_url: str, *, group_size: int, max_batches: int) -> None:
        """Groups of `group_size` rollouts; so many are made that `max_batches` batches wait or are being played."""
        self.ready_url = f"{base_url}/info"
        self._group_size, self._max_batches = group_size, max_batches
        self._http = httpx.AsyncClient(base_url=base_url, timeout=ANSWER_SECONDS, trust_env=False)
        self._name = ""
        self._registered: JsonObject = {}
        self._joining = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def register_environment(self, name: str) -> None:
        """Join, as soon as a trainer has asked for its first batch."""
        self._name = name
        await self._join()

    async def demand(
        self, environment: str, running: int, *, worker: str = "", wait_seconds: float = 0.0, most: int | None = None
    ) -> Demand:
        """See RolloutApi. `finished` when the trainer has, or will have, all the batches that it wants."""
        until = asyncio.get_running_loop().time() + wait_seconds
        while True:
            status = await self._status()
            batch = _number((await self._get("/info")).get("batch_size"))
            step, queued = _number(status.get("current_step")), _number(status.get("queue_size"))
            wanted = _number(self._registered.get("num_steps"))
            finished = wanted > 0 and batch > 0 and step + queued * self._group_size // batch >= wanted
            groups = max(0, self._max_batches * batch // self._group_size - queued - running) if batch > 0 else 0
            if groups or finished or asyncio.get_running_loop().time() >= until:
                return Demand(
                    groups=0 if finished else min(groups, groups if most is None else most),
                    group_size=self._group_size,
                    policy_version=step,
                    finished=finished,
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def post_group(self, group: ScoredGroup, *, worker: str = "") -> bool:
        """Hand over a group; nothing is sent of one without a score. Raises QueueError where it is refused."""
        if not group.scored:
            return True
        data = scored_data(group)
        # that server holds a group of another size than declared back until some add up to it, maybe for ever
        declared = len(group.scored) == self._group_size == len(data["scores"] or ())
        while True:
            env_id = await self._join()
            answer = await self._try("POST", "/scored_data", data | {"env_id": env_id if declared else None})
            if answer is not None and answer.is_success:
                return True
            if answer is not None and answer.status_code < 500:
                kind = GroupRefused if answer.status_code in OF_THIS_GROUP else QueueError
                raise kind(f"POST /scored_data: {answer.status_code} {answer.text[:300]}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _status(self) -> JsonObject:
        while True:
            env_id = await self._join()
            answer = await self._try("GET", "/status-env", {"env_id": env_id})
            if answer is not None and answer.is_success:
                return answer.json()
            if answer is not None:
                self._registered = {}  # another process, which does not know us
            await asyncio.sleep(LOOK_SECONDS)

    async def _join(self) -> int:
        """Our id, once there is a trainer. Waits for one."""
        pause = LOOK_SECONDS
        async with self._joining:
            while True:
                if _number((await self._get("/info")).get("batch_size")) <= 0:
                    self._registered = {}  # another process, or one that was reset
                elif self._registered:
                    return _number(self._registered["env_id"])
                wanted = {"max_token_length": MAX_TOKEN_LENGTH, "desired_name": self._name, "weight": 1.0}
                answer = await self._try("POST", "/register-env", wanted | {"group_size": self._group_size})
                found = answer.json() if answer is not None and answer.is_success else {}
                if found.get("status") == "success":
                    self._registered = found
                    log.info("registered", environment=found.get("wandb_name"), env_id=found.get("env_id"))
                    continue
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _get(self, path: str) -> JsonObject:
        """What a path answers; nothing where it does not."""
        answer = await self._try("GET", path)
        return answer.json() if answer is not None and answer.is_success else {}

    async def _try(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response | None:
        try:
            return await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            log.warning("no_answer", method=method, path=path, problem=f"{type(error).__name__} {error}".strip())
            return None


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1
