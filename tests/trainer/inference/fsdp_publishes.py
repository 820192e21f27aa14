"""Two processes hold a model and publish it to servers over the network. Run by torchrun with a model and addresses."""

import asyncio
import sys
from pathlib import Path

from trainer.engines.fsdp_engine import FsdpEngine, FsdpEngineConfig
from trainer.inference.external import ExternalConfig, ExternalEngine, Way
from trainer.inference.external_network import Collectives, NetworkConfig
from trainer.weights import WeightFormat


async def publish(engine: FsdpEngine, model: Path, urls: tuple[str, ...]) -> None:
    config = ExternalConfig(
        urls=urls,
        weights=model / "unused",
        publish=Way.NETWORK,
        weight_format=WeightFormat.FLOAT32,
        network=NetworkConfig(backend=Collectives.GLOO, part_bytes=20_000),
    )
    external = ExternalEngine(config, model)
    for version in (20, 21):
        await external.publish_from(engine, version)
    await external.aclose()


if __name__ == "__main__":
    model = Path(sys.argv[1])
    engine = FsdpEngine(model, FsdpEngineConfig(processes=2))
    if engine.rank == 0:
        asyncio.run(publish(engine, model, tuple(sys.argv[2:])))
        engine.close()
    else:
        engine.follow()
