"""Whole weights over the network: one broadcast a tensor, from this process to the workers of all servers at once.

The weights go in parts of bounded size, so that neither side holds the model twice: an engine that divides it among
processes gathers one tensor at a time.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from pydantic import Field

from core.config import Config
from core.errors import TrainingError, boundary
from core.logs import get_logger
from trainer.inference.dialect import Meeting, NetworkDialect, Part
from trainer.inference.external_replica import Replica, on_all
from trainer.weights import TORCH_TYPES, TensorSource, WeightFormat, WeightSource

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.inference.external_group import WeightGroup

log = get_logger("weight_network")
T = TypeVar("T")


class Collectives(StrEnum):
    """Names of torch.distributed for what carries the weights."""

    GLOO = "gloo"
    NCCL = "nccl"


class NetworkConfig(Config):
    """How this process and the servers' workers come together."""

    address: str | None = Field(default=None, description="where servers reach this process; unset: on the way to the first")
    backend: Collectives | None = Field(default=None, description="unset: nccl where this process sees a GPU, else gloo")
    part_bytes: int = Field(default=1 << 30, ge=1, description="weights that are gathered, sent and loaded at a time")
    part_seconds: float = Field(default=120.0, gt=0, description="what takes longer, meeting or a part, fails")


class NetworkHandOver:
    """Fulfils HandOver; what is in flight is kept while the weights change."""

    def __init__(self, dialect: NetworkDialect, config: NetworkConfig, number_format: WeightFormat) -> None:
        self._dialect, self._config, self._format = dialect, config, number_format
        self._group: WeightGroup | None = None
        self._members: Sequence[Replica] = ()

    async def publish(self, replicas: Sequence[Replica], source: WeightSource, version: int) -> None:
        """See HandOver. Where it fails, servers may have some of the new weights only; the next time all meet anew."""
        if not isinstance(source, TensorSource):
            raise TrainingError(f"external.publish = 'network': {type(source).__name__} gives no single tensors")
        group = self._group or await self._met(replicas)
        for one in replicas:
            one.version = None
        try:
            await on_all(self._dialect.begin(one.command) for one in replicas)
            await self._send(group, replicas, source, version)
        except BaseException:
            await asyncio.gather(*(self._dialect.end(one.command) for one in replicas), return_exceptions=True)
            await self.aclose()  # who has received what of it is unknown
            raise
        await on_all(self._dialect.end(one.command) for one in replicas)
        for one in replicas:
            one.version = version

    async def restore(self, replica: Replica) -> None:
        """See HandOver: a server that started anew is no member of the group; the next publication fails and says so."""

    async def aclose(self) -> None:
        """Leave the group, and have the servers forget it."""
        group, self._group = self._group, None
        if group is None:
            return
        leaving = [self._dialect.leave(one.command, group.name) for one in self._members]
        await asyncio.gather(*leaving, asyncio.to_thread(group.close), return_exceptions=True)

    async def _met(self, replicas: Sequence[Replica]) -> "WeightGroup":
        """A group of which all workers of all servers are members. Raises TrainingError."""
        counts = await asyncio.gather(*(self._dialect.workers(one.command) for one in replicas))
        group = await asyncio.to_thread(self._listening, replicas[0].url, 1 + sum(counts))
        joins = [
            self._dialect.join(
                one.command,
                Meeting(group.address, group.port, group.name, group.backend, 1 + sum(counts[:index]), group.world),
            )
            for index, one in enumerate(replicas)
        ]
        await on_all([*joins, _in_thread(_within, "the servers' workers", group.meet)])
        self._group, self._members = group, replicas
        log.info("weight_group_met", address=f"{group.address}:{group.port}", backend=group.backend, ranks=group.world)
        return group

    def _listening(self, url: str, world: int) -> "WeightGroup":
        import torch

        from trainer.inference.external_group import WeightGroup, address_towards

        config = self._config
        backend = config.backend or (Collectives.NCCL if torch.cuda.is_available() else Collectives.GLOO)
        with boundary(TrainingError, "external.network.address"):
            return WeightGroup(config.address or address_towards(url), backend, world, config.part_seconds)

    async def _send(self, group: "WeightGroup", replicas: Sequence[Replica], source: TensorSource, version: int) -> None:
        async with aclosing(self._loads(group, source)) as loads:
            async for names, tensors in loads:
                shapes = tuple(tuple(tensor.shape) for tensor in tensors)
                part = Part(group.name, names, tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors), shapes)
                receiving = [self._dialect.receive(one.command, part, version) for one in replicas]
                await on_all([*receiving, _in_thread(_within, "a broadcast of weights", group.broadcast, tensors)])

    async def _loads(
        self, group: "WeightGroup", source: TensorSource
    ) -> AsyncGenerator[tuple[tuple[str, ...], "list[Tensor]"], None]:
        """Names and tensors of a part, each gathered when the one before it has been received."""
        gathered = self._gathered(group, source)
        try:
            while (load := await _in_thread(lambda: next(gathered, None))) is not None:
                yield load
        finally:
            await _in_thread(gathered.close)  # processes that gather together end together

    def _gathered(
        self, group: "WeightGroup", source: TensorSource
    ) -> Generator[tuple[tuple[str, ...], "list[Tensor]"], None, None]:
        names, tensors, size = list[str](), list["Tensor"](), 0
        kind = TORCH_TYPES[self._format]
        with closing(source.each_weight()) as weights:
            for name, value in weights:
                tensors.append(group.placed(value, kind if value.is_floating_point() else value.dtype))
                names.append(name)
                size += tensors[-1].nbytes
                if size >= self._config.part_bytes:
                    yield tuple(names), tensors
                    names, tensors, size = [], [], 0
            if names:
                yield tuple(names), tensors


async def _in_thread(call: Callable[..., T], *arguments: object) -> T:
    """What it gives. Who is cancelled waits for its end: what it works on is not for two threads."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def _within(what: str, call: Callable[..., None], *arguments: object) -> None:
    with boundary(TrainingError, what):
        call(*arguments)
