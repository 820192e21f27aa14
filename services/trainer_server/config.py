"""The section `trainer` of a run's file."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from core.config import Address
from services.policy_folder import SHIPPED_POLICY
from trainer.config import TrainerConfig
from trainer.engines.tinker_engine import TinkerEngineConfig
from trainer.engines.torch_engine import TorchEngineConfig
from trainer.inference.external import ExternalConfig, Way
from trainer.inference.local_engine import LocalEngineConfig


class TrainerServerConfig(TrainerConfig):
    """What the trainer learns, where it listens, and where it takes its batches from."""

    model: Path = SHIPPED_POLICY
    host: str = "127.0.0.1"
    port: int = Field(default=8001, ge=0, le=65535, description="0: any free one")
    api_url: Address = "http://127.0.0.1:8000"
    model_id: str = "policy"
    parser: str = "hermes"
    groups_per_batch: int = Field(default=8, ge=1)
    group_size: int = Field(default=8, ge=2)
    lease_seconds: float = Field(default=900.0, gt=0, le=86_400, description="a step that takes longer is done twice")
    report_to: tuple[str, ...] = Field(default=(), description="beside metrics.jsonl: tensorboard, wandb")
    stuck_after_seconds: float = Field(default=180.0, gt=0, description="what stands still for so long is named in the log")
    inference: LocalEngineConfig = LocalEngineConfig()
    external: ExternalConfig | None = Field(default=None, description="servers that sample in place of this process")

    @property
    def learns_an_adapter(self) -> bool:
        """Whether the model stands still, and an adapter beside it learns."""
        return isinstance(self.engine, TorchEngineConfig) and self.engine.lora is not None

    @model_validator(mode="after")
    def _samples_where_it_trains(self) -> Self:
        if self.external is not None and isinstance(self.engine, TinkerEngineConfig):
            raise ValueError("external: the engine 'tinker' samples at its own service; leave trainer.external out")
        if self.external is not None and self.external.publish is Way.LORA and not self.learns_an_adapter:
            raise ValueError("external.publish = 'lora': the whole model learns; set engine.lora, or publish = 'disk'")
        return self
