"""Whole weights over a directory that this process writes and every server reads."""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from trainer.inference.dialect import Dialect
from trainer.inference.external_replica import Replica, on_all
from trainer.weights import TensorSource, WeightFormat, WeightSource, as_written, save_model


class DiskHandOver:
    """Fulfils HandOver: a Hugging Face directory, read by all servers at once; what is in flight is kept."""

    def __init__(self, dialect: Dialect, directory: Path, model_dir: Path, number_format: WeightFormat) -> None:
        """`model_dir`: where config and tokenizer of published weights come from."""
        self._dialect, self._directory, self._model_dir, self._format = dialect, directory, model_dir, number_format
        self._newest: Path | None = None

    async def publish(self, replicas: Sequence[Replica], source: WeightSource, version: int) -> None:
        """See HandOver."""
        folder = self._directory / f"version-{version}"
        await asyncio.to_thread(self._write, source, folder)
        await on_all(self._swap(one, folder, version) for one in replicas)
        before, self._newest = self._newest, folder
        if before not in (None, folder):
            await asyncio.to_thread(shutil.rmtree, before, ignore_errors=True)

    async def restore(self, replica: Replica) -> None:
        """See HandOver: a server that started anew samples by the weights of its start, and refuses nothing."""

    async def aclose(self) -> None:
        """Nothing goes on."""

    def _write(self, source: WeightSource, folder: Path) -> None:
        if isinstance(source, TensorSource):  # held once, in the format of the files
            with closing(source.each_weight()) as each:
                weights = {name: as_written(value, self._format) for name, value in each}
        else:
            weights = source.state_dict()
        save_model(weights, self._model_dir, folder, self._format)

    async def _swap(self, replica: Replica, folder: Path, version: int) -> None:
        replica.version = None
        await self._dialect.swap(replica.command, folder, version)
        replica.version = version
