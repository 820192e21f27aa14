"""The contract of a hand-over: one way by which new weights reach servers elsewhere."""

from collections.abc import Sequence
from typing import Protocol

from trainer.inference.external_replica import Replica
from trainer.weights import WeightSource


class HandOver(Protocol):
    """One way. Belongs to one event loop."""

    async def publish(self, replicas: Sequence[Replica], source: WeightSource, version: int) -> None:
        """Have all servers sample by the weights of the source; no request is dropped.

        Raises TrainingError where a server refuses or does not answer: some may then sample by the new version.
        """
        ...

    async def restore(self, replica: Replica) -> None:
        """Give a server that refused a request the newest weights, if it lacks them, and count it. Raises TrainingError."""
        ...

    async def aclose(self) -> None:
        """Let go of what works for it; the servers go on. Safe to call twice."""
        ...
