"""The configuration of a training run, and the parts that it names."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, SerializeAsAny, field_validator

from core.config import Config, validated
from core.errors import ConfigError
from trainer.algorithms.base import ALGORITHMS, Algorithm, AlgorithmConfig
from trainer.checkpoints import CheckpointConfig, CheckpointStore
from trainer.engines.base import ENGINES, Engine, EngineConfig
from trainer.learner import Learner
from trainer.loop import LoopConfig
from trainer.samples import SampleConfig


class TrainerConfig(Config):
    """One run: which model, how it learns, where it writes.

    `algorithm` and `engine` are sections whose `name` decides which other keys they know.
    """

    model: Path
    """A Hugging Face directory: where the policy starts from."""
    out: Path = Path("runs/latest")
    seed: int = 0
    algorithm: SerializeAsAny[AlgorithmConfig] = Field(default_factory=dict, validate_default=True)  # pyright: ignore
    engine: SerializeAsAny[EngineConfig] = Field(default_factory=dict, validate_default=True)  # pyright: ignore
    samples: SampleConfig = SampleConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    loop: LoopConfig = LoopConfig()

    @field_validator("algorithm", mode="before")
    @classmethod
    def _algorithm_by_name(cls, value: object) -> object:
        if isinstance(value, AlgorithmConfig):
            return value
        section = _section("algorithm", value)
        return validated(ALGORITHMS.load(_name(section, "grpo")).config_type, section, "algorithm")

    @field_validator("engine", mode="before")
    @classmethod
    def _engine_by_name(cls, value: object) -> object:
        if isinstance(value, EngineConfig):
            return value
        section = _section("engine", value)
        return validated(ENGINES.load(_name(section, "torch")).config_type, section, "engine")


def make_learner(config: TrainerConfig) -> Learner:
    """The algorithm and the engine that the config names, the model loaded. Raises TrainingError, UnknownName."""
    algorithm: Algorithm = ALGORITHMS.load(config.algorithm.name)(config.algorithm)
    engine: Engine = ENGINES.load(config.engine.name)(config.model, config.engine, with_reference=algorithm.needs_reference)
    return Learner(engine, algorithm, config.samples, config.seed)


def make_checkpoints(config: TrainerConfig) -> CheckpointStore:
    """The checkpoints of the run, in its output directory."""
    return CheckpointStore(config.out / "checkpoints", config.checkpoints)


def _section(key: str, value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}: expected a section with a name and settings, found {value!r}")
    return {str(name): setting for name, setting in value.items()}


def _name(section: Mapping[str, object], default: str) -> str:
    return str(section.get("name", default))
