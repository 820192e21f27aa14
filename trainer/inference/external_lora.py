"""Adapters by name: a few megabytes a version, and no server stops for one.

Each publication has a name of its own, so a request runs wholly on the adapter that it named, and its version is exact.
Loading in place of an older one would change what is in flight half-way. Once nothing in flight names an older adapter, it
is unloaded and its files are deleted. Both kinds of server keep their prefix caches apart by adapter.
"""

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

from core.errors import TrainingError
from core.logs import get_logger
from core.types import JsonObject
from trainer.inference.dialect import Dialect
from trainer.inference.external_replica import Replica, ServedAdapter, on_all
from trainer.weights import AdapterSource, WeightSource, replaced_directory

log = get_logger("adapters")


class AdapterHandOver:
    """Fulfils HandOver with adapters that servers load beside the model, which stays as it was started."""

    def __init__(self, dialect: Dialect, directory: Path) -> None:
        self._dialect, self._directory = dialect, directory
        self._retiring = set[asyncio.Task[None]]()
        self._began = False

    async def publish(self, replicas: Sequence[Replica], source: WeightSource, version: int) -> None:
        """See HandOver."""
        if not isinstance(source, AdapterSource):
            raise TrainingError('external.publish = "lora" needs an engine that trains an adapter: set engine.lora')
        name = f"natgym-{version}-{uuid4().hex[:8]}"
        folder = self._directory / name
        if not self._began:
            await asyncio.gather(*(self._clear(one) for one in replicas))
            self._began = True
        await asyncio.to_thread(_write, source, folder)
        made = [ServedAdapter(name, version, folder) for _ in replicas]
        await on_all(self._load(one, adapter) for one, adapter in zip(replicas, made, strict=True))
        former = [(one, one.adapter) for one in replicas if one.adapter is not None]
        for one, adapter in zip(replicas, made, strict=True):
            one.adapter, one.version = adapter, version
        if former:
            self._own(asyncio.create_task(self._retire(former)))

    async def restore(self, replica: Replica) -> None:
        """See HandOver: a server that started anew knows no adapter."""
        if replica.adapter is None:
            return
        async with replica.restoring:
            if replica.adapter.name not in dict(await self._known(replica)):
                await self._load(replica, replica.adapter)
                replica.restores += 1
                log.warning("adapter_restored", server=replica.url, adapter=replica.adapter.name)

    async def aclose(self) -> None:
        """Older adapters that are in use stay; the next run that publishes over this directory unloads them."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _load(self, replica: Replica, adapter: ServedAdapter) -> None:
        try:
            await self._dialect.load_adapter(replica.command, adapter.name, adapter.folder)
        except TrainingError as error:
            raise TrainingError(f"{error}; a server takes adapters with {self._dialect.takes_adapters}") from error

    async def _retire(self, former: Sequence[tuple[Replica, ServedAdapter]]) -> None:
        """Unload an adapter wherever nothing in flight names it any more, and delete it at last."""
        await asyncio.gather(*(self._forget(replica, adapter) for replica, adapter in former))
        await asyncio.to_thread(shutil.rmtree, former[0][1].folder, ignore_errors=True)

    async def _forget(self, replica: Replica, adapter: ServedAdapter) -> None:
        await adapter.unused()
        await self._unload(replica, adapter.name)

    async def _unload(self, replica: Replica, name: str) -> None:
        try:
            await self._dialect.unload_adapter(replica.command, name)
        except TrainingError as error:  # it costs the server memory, and no one a wrong token
            log.warning("adapter_not_unloaded", adapter=name, error=str(error))

    async def _clear(self, replica: Replica) -> None:
        """Have a server forget what a process before this one loaded from this directory."""
        for name, folder in await self._known(replica):
            if folder.parent == self._directory:
                await self._unload(replica, name)
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _known(self, replica: Replica) -> list[tuple[str, Path]]:
        """Names and directories of all that a server has loaded, the model among them. Raises TrainingError."""
        return list(_listed(await replica.command("/v1/models", None)))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _write(source: AdapterSource, folder: Path) -> None:
    with replaced_directory(folder) as partial:
        source.save_adapter(partial)


def _listed(answer: JsonObject) -> Iterator[tuple[str, Path]]:
    cards = answer.get("data")
    for card in cards if isinstance(cards, list) else []:
        name, folder = (card.get("id"), card.get("root")) if isinstance(card, dict) else (None, None)
        if isinstance(name, str) and isinstance(folder, str):
            yield name, Path(folder)
