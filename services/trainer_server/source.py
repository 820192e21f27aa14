"""The rollout API as the training loop's source of batches."""

from collections.abc import Callable

from core.types import Update
from services.rollout_api.messages import RunStatus
from services.sdk.rollout_client import RolloutClient
from services.trainer_server.config import TrainerServerConfig
from trainer.loop import TakenBatch

WAIT_SECONDS = 5.0


class ApiSource:
    """Takes full batches under a lease; hears on the way that the run was finished by somebody else."""

    def __init__(self, client: RolloutClient, config: TrainerServerConfig, on_finished: Callable[[], None]) -> None:
        self._client, self._config, self._on_finished = client, config, on_finished

    async def take_batch(self, policy_version: int) -> TakenBatch | None:
        """The next batch, or None after a while; see BatchSource."""
        taken = await self._client.take_batch(
            self._config.groups_per_batch,
            policy_version,
            max_staleness=self._config.loop.staleness,
            lease_seconds=self._config.lease_seconds,
            wait_seconds=WAIT_SECONDS,
        )
        if taken is not None:
            return TakenBatch(taken.batch_id, taken.groups)
        run = (await self._client.status()).run
        if run is not None and run.status is RunStatus.FINISHED:
            self._on_finished()
        return None

    async def acknowledge(self, batch_id: str, update: Update) -> None:
        """The batch is done with; see BatchSource."""
        run = await self._client.acknowledge(batch_id, update)
        if run.status is RunStatus.FINISHED:
            self._on_finished()
