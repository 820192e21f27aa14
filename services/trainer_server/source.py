"""The rollout API as the training loop's source of batches."""

from collections.abc import Callable, Sequence

from core.types import Update
from services.rollout_api.messages import RunStatus
from services.sdk.rollout_client import RolloutClient
from services.sdk.rollout_client import TakenBatch as LeasedBatch
from services.trainer_server.config import TrainerServerConfig
from trainer.loop import TakenBatch

WAIT_SECONDS = 5.0


class ApiSource:
    """Takes full batches under a lease; hears on the way that the run was finished by somebody else."""

    def __init__(self, client: RolloutClient, config: TrainerServerConfig, on_finished: Callable[[], None]) -> None:
        self._client, self._config, self._on_finished = client, config, on_finished
        self._leased: dict[str, LeasedBatch] = {}

    async def take_batch(self, policy_version: int) -> TakenBatch | None:
        """The next batch, or None after a while; see BatchSource."""
        taken = await self._client.take_batch(
            self._config.groups_per_batch,
            policy_version,
            max_staleness=self._config.loop.staleness,
            lease_seconds=self._config.lease_seconds,
            wait_seconds=WAIT_SECONDS,
        )
        return await self._handed_on(taken)

    async def refill(self, batch_id: str, refused: Sequence[str], policy_version: int) -> TakenBatch | None:
        """The batch with other groups in the place of those; see BatchSource."""
        leased = self._leased[batch_id]
        return await self._handed_on(
            await self._client.refill_batch(leased, refused, policy_version, wait_seconds=WAIT_SECONDS)
        )

    async def _handed_on(self, taken: LeasedBatch | None) -> TakenBatch | None:
        if taken is not None:
            self._leased = {taken.batch_id: taken}
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
