"""Whole weights over a directory that this process writes and every server reads."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from trainer.inference.dialect import Dialect
from trainer.inference.external_replica import Replica, on_all
from trainer.weights import WeightFormat, WeightSource, save_model


class DiskHandOver:
    """Fulfils HandOver: a Hugging Face directory, read by all servers at once; what is in flight is kept."""

    def __init__(self, dialect: Dialect, directory: Path, model_dir: Path, number_format: WeightFormat) -> None:
        """`model_dir`: where config and tokenizer of published weights come from."""
        self._dialect, self._directory, self._model_dir, self._format = dialect, directory, model_dir, number_format
        self._newest: Path | None = None

    async def publish(self, replicas: Sequence[Replica], source: WeightSource, version: int) -> None:
        """See HandOver."""
        folder = self._directory / f"version-{version}"
        weights = await asyncio.to_thread(source.state_dict)
        await asyncio.to_thread(save_model, weights, self._model_dir, folder, self._format)
        await on_all(self._swap(one, folder, version) for one in replicas)
        before, self._newest = self._newest, folder
        if before not in (None, folder):
            await asyncio.to_thread(shutil.rmtree, before, ignore_errors=True)

    async def restore(self, replica: Replica) -> None:
        """See HandOver: a server that started anew samples by the weights of its start, and refuses nothing."""

    async def aclose(self) -> None:
        """Nothing goes on."""

    async def _swap(self, replica: Replica, folder: Path, version: int) -> None:
        replica.version = None
        await self._dialect.swap(replica.command, folder, version)
        replica.version = version
