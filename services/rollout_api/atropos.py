"""The HTTP contract of Atropos 0.4.0 over the durable queue: its routes and what they answer. See docs/atropos.md."""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from core.clock import Clock
from core.logs import get_logger
from services.rollout_api.atropos_batch import batch_of
from services.rollout_api.atropos_data import Checked, ScoredData, check_group, check_groups
from services.rollout_api.atropos_delivery import DELIVERY_SECONDS, BatchDelivery, encoding_for
from services.rollout_api.atropos_posts import Posts
from services.rollout_api.atropos_state import (
    RUN,
    AtroposState,
    EnvId,
    EnvironmentRequest,
    Registration,
    Sender,
)
from services.rollout_api.base import Parcel
from services.rollout_api.bodies import JSON, has_left, media_type_of, read_body, read_model
from services.rollout_api.compression import body_of
from services.rollout_api.messages import GroupFilter, GroupState, TakeBatch
from services.rollout_api.queue import GroupQueue
from services.rollout_api.refusals import NotKnown, TryLater, WrongMediaType

MAX_SMALL_BODY = 1 << 20
HOLD_SECONDS = 60.0
"""How long a post waits for room in the queue. Its environment drops what it cannot deliver within a few tries."""
HELD = 64  # posts that wait at once, each with its body
LOOK_SECONDS = 0.25
NO_EXAMPLE = dict.fromkeys(ScoredData.__struct_fields__, ())

log = get_logger("rollout_api")


class AtroposRoutes:
    """One method a route; each reads, asks the queue, answers."""

    def __init__(self, queue: GroupQueue, clock: Clock, max_body_bytes: int) -> None:
        self._queue, self._clock, self._max_body_bytes = queue, clock, max_body_bytes
        self._state, self._posts = AtroposState(queue, clock), Posts(clock)
        self._held = 0
        self._latest: bytes | None = None

    async def load(self) -> None:
        """Once the queue is open: read what an earlier process remembered, and give back what it did not deliver."""
        await self._state.load()
        came_back = not self._queue.shared  # another process may be at work on what is on its way
        while came_back:
            facts = await self._queue.groups(GroupFilter(run=RUN, state=GroupState.LEASED, limit=1000))
            came_back = 0
            for batch_id in {one.batch_id for one in facts if one.batch_id is not None}:
                came_back += await self._queue.return_batch(batch_id)
                log.warning("delivery_broke_off", batch=batch_id)

    def table(self) -> list[Route]:
        """Every path, its method and what answers."""
        return [
            Route("/", self.get_root, methods=["GET"]),
            Route("/register", self.post_register, methods=["POST"]),
            Route("/register-env", self.post_register_env, methods=["POST"]),
            Route("/disconnect-env", self.post_disconnect_env, methods=["POST"]),
            Route("/scored_data", self.post_scored_data, methods=["POST"]),
            Route("/scored_data_list", self.post_scored_data_list, methods=["POST"]),
            Route("/batch", self.get_batch, methods=["GET"]),
            Route("/status", self.get_status, methods=["GET"]),
            Route("/status-env", self.get_status_env, methods=["GET"]),
            Route("/info", self.get_info, methods=["GET"]),
            Route("/wandb_info", self.get_wandb_info, methods=["GET"]),
            Route("/latest_example", self.get_latest_example, methods=["GET"]),
            Route("/reset_data", self.get_reset_data, methods=["GET"]),
        ]

    async def get_root(self, request: Request) -> Response:
        """That it is there."""
        return JSONResponse({"message": "AtroposLib API"})

    async def post_register(self, request: Request) -> Response:
        """A trainer says what it wants."""
        await self._state.register(await read_model(request, Registration, MAX_SMALL_BODY))
        return JSONResponse({"uuid": uuid4().int})

    async def post_register_env(self, request: Request) -> Response:
        """An environment joins, once a trainer has asked for a first batch."""
        wanted = await read_model(request, EnvironmentRequest, MAX_SMALL_BODY)
        trainer = self._state.trainer
        if trainer is None or not trainer.started:
            return JSONResponse({"status": "wait for trainer to start"})
        environment = await self._state.add(wanted)
        log.info("environment_registered", environment=environment.name, env_id=environment.id, weight=environment.weight)
        return JSONResponse(
            {
                "status": "success",
                "env_id": environment.id,
                "wandb_name": f"{environment.name}_{environment.number}",
                "checkpoint_dir": trainer.registration.checkpoint_dir,
                "starting_step": self._state.step,
                "checkpoint_interval": trainer.registration.save_checkpoint_interval,
                "num_steps": trainer.registration.num_steps,
            }
        )

    async def post_disconnect_env(self, request: Request) -> Response:
        """An environment leaves; what it has posted stays."""
        env_id = (await read_model(request, EnvId, MAX_SMALL_BODY)).env_id
        if await self._state.disconnect(env_id):
            return JSONResponse({"status": "success"})
        return JSONResponse({"status": "failure", "error": f"no environment has the id {env_id}"})

    async def post_scored_data(self, request: Request) -> Response:
        """Accepts a group."""
        await self._accept(request, [check_group(await self._read(request))])
        return Response(b'{"status":"received"}', media_type=JSON)

    async def post_scored_data_list(self, request: Request) -> Response:
        """Accepts groups, all of them or none."""
        groups = check_groups(await self._read(request))
        await self._accept(request, groups)
        return JSONResponse({"status": "received", "groups_processed": len(groups)})

    async def get_batch(self, request: Request) -> Response:
        """Takes a batch of exactly `batch_size` sequences, or says that there is none yet."""
        _refuse_head(request)
        trainer = self._state.trainer
        if trainer is None:
            message = "Trainer not registered. Call /register first."
            return JSONResponse({"status": "error", "message": message, "batch": []})
        await self._state.start()
        size = trainer.registration.batch_size
        lease = None
        if self._state.waiting().sequences >= size:
            wanted = TakeBatch(
                batch_id=f"{RUN}-{uuid4().hex}", run=RUN, groups=1, policy_version=0, lease_seconds=DELIVERY_SECONDS
            )
            gone, choose = partial(has_left, request), batch_of(size, self._state.shares())
            lease = await self._queue.take_batch(wanted, gone, choose)
        if lease is None:
            return JSONResponse({"batch": None})
        encoding = encoding_for(request.headers.get("accept-encoding", ""))
        self._state.step += 1
        return BatchDelivery(self._queue, lease, encoding, self._broke_off)

    async def get_status(self, request: Request) -> Response:
        """The trainer's step, and how many groups wait."""
        return JSONResponse({"current_step": self._state.step, "queue_size": self._state.waiting().groups})

    async def get_status_env(self, request: Request) -> Response:
        """What an environment throttles itself by; sizes in groups of its own size."""
        env_id = (await read_model(request, EnvId, MAX_SMALL_BODY)).env_id
        environment = await self._state.known(env_id)
        waiting, shares, batch = self._state.waiting(), self._state.shares(), self._state.batch_size
        size = max(environment.group_size, waiting.largest_group.get(env_id, 1))
        own = waiting.by_environment.get(env_id, 0)
        others = sum(
            max(0, sequences - int(batch * (shares.get(other, 0.0) if other is not None else 0.0)))
            for other, sequences in waiting.by_environment.items()
            if other != env_id
        )
        # it takes what waits for a share of the batches that it knows of: a larger batch needs more to wait
        scale = environment.batch_size / batch if environment.batch_size and batch else 1.0
        return JSONResponse(
            {
                "current_step": self._state.step,
                "queue_size": int((own + others) * scale) // size,
                "unallocated_fraction": 1.0 - min(sum(shares.values()), 1.0),
                "self_queue_size": int(own * scale) // size,
                "max_group_size": max(waiting.largest_group.values(), default=1),
                "env_weight": self._state.weight_of(environment),
            }
        )

    async def get_info(self, request: Request) -> Response:
        """What the trainer registered with; -1 where none did."""
        trainer = self._state.trainer
        if trainer is None:
            return JSONResponse({"batch_size": -1, "max_token_len": -1})
        known = trainer.registration
        return JSONResponse({"batch_size": known.batch_size, "max_token_len": known.max_token_len})

    async def get_wandb_info(self, request: Request) -> Response:
        """Where the trainer logs to; null where none registered."""
        trainer = self._state.trainer
        group, project = (trainer.registration.wandb_group, trainer.registration.wandb_project) if trainer else (None, None)
        return JSONResponse({"group": group, "project": project})

    async def get_latest_example(self, request: Request) -> Response:
        """The group that was accepted last."""
        if self._latest is None:
            return JSONResponse(NO_EXAMPLE) if (body := await self._newest()) is None else Response(body, media_type=JSON)
        return Response(self._latest, media_type=JSON)

    async def get_reset_data(self, request: Request) -> Response:
        """Forgets trainer, environments and groups. A GET that changes state, because its clients send one."""
        _refuse_head(request)
        await self._state.reset()
        self._latest = None
        log.warning("atropos_reset")
        return PlainTextResponse("Reset successful")

    def _broke_off(self) -> None:
        self._state.step = max(0, self._state.step - 1)

    async def _read(self, request: Request) -> bytes:
        if media_type_of(request) != JSON:
            raise WrongMediaType(f"Atropos's routes speak {JSON} only")
        return await read_body(request, self._max_body_bytes)

    async def _accept(self, request: Request, groups: Sequence[Checked]) -> None:
        """Queue them in order. Raises TryLater and StorageFull."""
        posted: list[bytes] = []
        try:
            for group in groups:
                if group.env_id in self._state.environments:
                    self._state.hear(group.env_id)
                posted.append(await self._posts.put(self._parcel(group), self._put))
                self._latest = group.body
        finally:
            if len(posted) < len(groups) or has_left(request):
                for content in posted:
                    self._posts.unanswered(content)

    def _parcel(self, group: Checked) -> Parcel:
        run = self._queue.snapshot.runs.get(RUN)
        return Parcel(
            id="",
            environment=Sender(group.env_id, group.sequences).name,
            policy_version=run.policy_version if run else 0,
            scored=group.sequences,
            lost=0,
            body=group.body,
            digits_at=group.digits_at,
            accepted_at=self._clock.now(),
            run=RUN,
            dialect=RUN,
        )

    async def _put(self, parcel: Parcel) -> bool:
        """Queue it, as soon as there is room. Raises TryLater where there is none for long."""
        until = self._clock.monotonic() + HOLD_SECONDS
        while True:
            try:
                return await self._queue.put_group(parcel)
            except TryLater:
                if self._held >= HELD or self._clock.monotonic() >= until or not self._queue.ready:
                    raise
            self._held += 1
            try:
                await asyncio.sleep(LOOK_SECONDS)
            finally:
                self._held -= 1

    async def _newest(self) -> bytes | None:
        for facts in await self._queue.groups(GroupFilter(run=RUN, limit=1)):
            try:
                return await asyncio.to_thread(body_of, await self._queue.group_frame(facts))
            except NotKnown:
                break
        return None


def _refuse_head(request: Request) -> None:
    """A GET route is asked with HEAD as well, by clients that want nothing to happen."""
    if request.method == "HEAD":
        raise HTTPException(405)
