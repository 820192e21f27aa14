"""What of a trainer should move, and what to say of it when it does not."""

from collections.abc import Callable

from pydantic import SecretStr

from core.clock import SystemClock
from core.errors import QueueError
from services.rollout_api.messages import QueueStatus
from services.sdk.rollout_client import RolloutClient
from services.trainer_server.config import TrainerServerConfig
from trainer.inference.base import InferenceEngine
from trainer.loop import Phase, TrainLoop
from trainer.watchdog import Part, Watchdog

DOING = {
    Phase.TRAINING: "an update is being computed: smaller trainer.engine.micro_batch_tokens or a faster device shorten it",
    Phase.PUBLISHING: "the sampler does not take the new weights",
    Phase.CHECKPOINTING: "a checkpoint is being written: is the disk of trainer.out slow or full?",
    Phase.ACKNOWLEDGING: "the rollout API does not take the update",
}


def watchdog(config: TrainerServerConfig, loop: TrainLoop, engine: InferenceEngine, token: SecretStr | None) -> Watchdog:
    """Watches the training loop and the sampler; `token` is for the rollout API, which is asked why there is no batch."""

    async def explain_loop() -> str:
        return DOING.get(loop.phase) or await _waiting(config, token)

    async def explain_sampler() -> str:
        stats = engine.stats()
        return f"{stats.running} requests are being decoded and {stats.waiting} wait, and no token was made"

    parts = (Part("training", _loop_moves(loop), explain_loop), Part("sampler", _sampler_moves(engine), explain_sampler))
    return Watchdog(parts, config.stuck_after_seconds, SystemClock())


def _loop_moves(loop: TrainLoop) -> Callable[[], object]:
    return lambda: None if loop.phase is Phase.IDLE else (loop.phase, loop.progress.step)


def _sampler_moves(engine: InferenceEngine) -> Callable[[], object]:
    def progress() -> object:
        stats = engine.stats()
        return (stats.prompt_tokens, stats.generated_tokens, stats.cancelled) if stats.running + stats.waiting else None

    return progress


async def _waiting(config: TrainerServerConfig, token: SecretStr | None) -> str:
    """Why there is no batch, as the rollout API sees it."""
    try:
        async with RolloutClient(config.api_url, token, retry_seconds=0.0) as client:
            status = await client.status()
    except QueueError as error:
        return f"the rollout API does not answer: {error}"
    return why_no_batch(status, config.groups_per_batch)


def why_no_batch(status: QueueStatus, wanted: int) -> str:
    """What the environments make, or that there are none."""
    counts = status.counts
    making = {name: one.running for name, one in status.environments.items() if one.running}
    held = f"{counts.queued} of {wanted} groups are queued, {counts.leased} are leased"
    if making:
        return f"{held}, being made: " + ", ".join(f"{running} by {name}" for name, running in sorted(making.items()))
    known = ", ".join(sorted(status.environments)) or "none"
    return f"{held}, and no environment server makes any (registered: {known}): is `natgym serve env NAME` running?"
