"""The rollout API as Python sees it, for environment servers and trainers."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import zstandard
from pydantic import BaseModel, SecretStr, ValidationError

from core import wire
from core.errors import QueueError
from core.types import JsonObject, ScoredGroup, Update
from core.wire import WireError
from services.rollout_api.messages import (
    BatchReply,
    Demand,
    EnvironmentSpec,
    GroupFilter,
    GroupPage,
    QueueStatus,
    Receipt,
    Run,
    RunChange,
    RunSpec,
    RunStatus,
    TakeBatch,
)
from services.sdk.base import OF_THIS_GROUP, GroupRefused
from services.sdk.connection import Answer, Connection, Refused

M = TypeVar("M", bound=BaseModel)
INLINE_BYTES = 16 << 10


class TakenBatch(NamedTuple):
    """Groups under a lease, oldest policy version first, then in order of arrival."""

    wanted: TakeBatch
    """What was asked for."""
    groups: tuple[ScoredGroup, ...]

    @property
    def batch_id(self) -> str:
        """What it is acknowledged by."""
        return self.wanted.batch_id


class RolloutClient:
    """One connection pool to one rollout API.

    Every request may be sent twice without harm, because its id comes from here. So a lost connection and a 503 are
    tried again for `retry_seconds`: a restart of the API is not noticed. Everything else, and the end of that time,
    is a QueueError that names the request and the answer.
    """

    def __init__(self, base_url: str, token: SecretStr | None = None, *, retry_seconds: float = 60.0, run: str = "") -> None:
        """`run`: whose queue is meant; empty is the run that this client opens, else the only one that is open."""
        self._run, self.base_url, self.ready_url = run, base_url, f"{base_url}/ready"
        self._connection = Connection(base_url, token, retry_seconds)
        self._handed_over: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()

    async def register_environment(
        self, name: str, *, group_size: int | None = None, weight: float = 1.0, min_share: float = 0.0
    ) -> None:
        """Make an environment known. `group_size` None: the run's. Again is fine, and changes it."""
        spec = EnvironmentSpec(group_size=group_size, weight=weight, min_share=min_share)
        await self._connection.send("PUT", f"/v1/environments/{quote(name, safe='')}", spec)

    async def demand(
        self, environment: str, running: int, *, worker: str = "", wait_seconds: float = 0.0, most: int | None = None
    ) -> Demand:
        """How many groups to start while `running` are being made; waits for one up to `wait_seconds` (60 at most).

        At most `most`, so that others get what this server has no room for. A newer call with the same environment and
        worker ends an older one that still waits.
        """
        query = {
            "environment": environment,
            "running": running,
            "handed_over": self._handed_over[worker],
            "worker": worker,
            "wait_seconds": wait_seconds,
            "run": self._run,
        } | ({} if most is None else {"most": most})
        answer = await self._connection.send("GET", f"/v1/demand?{urlencode(query)}", wait_seconds=wait_seconds)
        return _model(Demand, answer)

    async def post_group(self, group: ScoredGroup, *, worker: str = "") -> bool:
        """Hand over a group; when this returns it is on the disk. False where it already was. Raises GroupRefused."""
        query = urlencode({"worker": worker, "run": self._run, "handed_over": self._handed_over[worker]})
        try:
            answer = await self._connection.send("POST", f"/v1/groups?{query}", group)
        except Refused as error:
            raise (GroupRefused(str(error)) if error.status in OF_THIS_GROUP else error) from error
        self._handed_over[worker] += 1
        return _model(Receipt, answer).first

    async def open_run(self, spec: RunSpec) -> Run:
        """Start a run, or resume the one of that id: what a trainer had taken before goes back to the queue."""
        run = _model(Run, await self._connection.send("POST", "/v1/run", spec))
        self._run = run.id
        return run

    async def set_run_status(self, run_id: str, status: RunStatus) -> Run:
        """Pause, continue or finish the run."""
        return _model(Run, await self._connection.send("POST", "/v1/run/status", RunChange(id=run_id, status=status)))

    async def take_batch(
        self,
        groups: int,
        policy_version: int,
        *,
        max_staleness: int | None = None,
        lease_seconds: float = 600.0,
        wait_seconds: float = 20.0,
    ) -> TakenBatch | None:
        """Take the oldest groups under a lease; None when there are too few after `wait_seconds` (60 at most).

        Groups sampled more than `max_staleness` (None: the run's) versions before `policy_version` are dropped.
        """
        wanted = TakeBatch(
            batch_id=uuid4().hex,
            run=self._run,
            groups=groups,
            policy_version=policy_version,
            max_staleness=max_staleness,
            lease_seconds=lease_seconds,
            wait_seconds=wait_seconds,
        )
        return await self._take(wanted)

    async def refill_batch(
        self, taken: TakenBatch, refused: Sequence[str], policy_version: int, *, wait_seconds: float = 20.0
    ) -> TakenBatch | None:
        """Have the groups of those ids dropped, and others put in their place; the batch is as large as it was then.

        None when there are too few after `wait_seconds`: what is dropped is dropped, and the call may be repeated.
        """
        wanted = taken.wanted.model_copy(
            update={"refused": tuple(refused), "policy_version": policy_version, "wait_seconds": wait_seconds}
        )
        return await self._take(wanted)

    async def _take(self, wanted: TakeBatch) -> TakenBatch | None:
        answer = await self._connection.send(
            "POST", "/v1/batches", wanted, wait_seconds=wanted.wait_seconds, accept="application/zstd"
        )
        if answer.status == 204:
            return None
        try:
            small = len(answer.body) <= INLINE_BYTES  # read sooner than it is handed to another thread
            reply = _batch_of(answer.body) if small else await asyncio.to_thread(_batch_of, answer.body)
        except (WireError, zstandard.ZstdError) as error:
            raise QueueError(f"POST /v1/batches: {error}") from error
        return TakenBatch(wanted, reply.groups)

    async def acknowledge(self, batch_id: str, update: Update) -> Run:
        """The update used that batch; the run is one step further. Again changes nothing."""
        return _model(Run, await self._connection.send("POST", f"/v1/batches/{quote(batch_id, safe='')}/ack", update))

    async def return_batch(self, batch_id: str) -> None:
        """Give a batch back before its lease ends; again changes nothing."""
        await self._connection.send("POST", f"/v1/batches/{quote(batch_id, safe='')}/return")

    async def status(self) -> QueueStatus:
        """Counts, run, environments and the last update."""
        return _model(QueueStatus, await self._connection.send("GET", f"/v1/status?{urlencode({'run': self._run})}"))

    async def groups(self, wanted: GroupFilter | None = None) -> GroupPage:
        """A page of what became of groups, newest first."""
        query = urlencode((wanted or GroupFilter()).model_dump(mode="json", exclude_none=True))
        return _model(GroupPage, await self._connection.send("GET", f"/v1/groups?{query}"))

    async def group(self, name: str) -> ScoredGroup:
        """One group as it was posted, while its content is kept."""
        path = f"/v1/groups/{quote(name, safe='')}"
        try:
            return wire.decode(ScoredGroup, (await self._connection.send("GET", path)).body)
        except WireError as error:
            raise QueueError(f"GET {path}: {error}") from error

    async def events(self, kinds: Sequence[str] = ("batch", "update", "run")) -> AsyncGenerator[tuple[str, JsonObject]]:
        """Kind and facts of what happens from now on, until the API ends the stream."""
        query = urlencode({"kinds": ",".join(kinds)} | ({"run": self._run} if self._run else {}))
        kind = ""
        async with aclosing(self._connection.lines(f"/v1/events?{query}")) as lines:
            async for line in lines:
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "data":
                    yield kind, json.loads(value)


def _model(kind: type[M], answer: Answer) -> M:
    try:
        return kind.model_validate_json(answer.body)
    except ValidationError as error:
        raise QueueError(f"{answer.request}: not a {kind.__name__}: {error}") from error


def _batch_of(body: bytes) -> BatchReply:
    """A batch as the API stores it: one zstd frame behind the other."""
    with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True) as reader:
        return wire.decode(BatchReply, reader.read())
