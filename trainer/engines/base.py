"""The contract of a training engine: gradients of exactly the tokens that were sampled, and a way to continue."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from core.config import Config
from core.registry import Registry
from trainer.algorithms.base import AdamParams, LossFunction
from trainer.batch import Batch

MODEL_FOLDER = "model"
"""Where in a checkpoint the weights are, as a Hugging Face directory."""


class EngineConfig(Config):
    """What all engines share."""

    name: str


class Pass(NamedTuple):
    """What one forward_backward measured."""

    loss: float
    means: Mapping[str, float]
    """Per completion token that was passed through the model."""
    maxima: Mapping[str, float]
    tokens: int
    """Completion tokens that were passed through the model."""
    row_tokens: int
    """Tokens of those rows, prompts included."""


class Engine(Protocol):
    """A model and its optimiser. Not for two threads at once."""

    config_type: ClassVar[type[EngineConfig]]

    def __init__(self, source: Path, config: EngineConfig, *, with_reference: bool = False) -> None:
        """The model of a Hugging Face directory, with a frozen twin as reference if asked.

        Raises ConfigError for a directory that cannot be used, TrainingError where memory runs out.
        """
        ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model has."""
        ...

    def forward_backward(self, batch: Batch, loss: LossFunction, tokens: int | None = None) -> Pass:
        """Add the gradient of that loss over the batch, in micro-batches; independent of padding, order and their size.

        `tokens` is what a token-level loss is divided by: the batch's own completion tokens unless told.
        Raises TrainingError for a loss that is not finite; the gradient is cleared then.
        """
        ...

    def optim_step(self, params: AdamParams) -> float:
        """Clip, step, clear the gradient. The gradient's norm before clipping.

        Raises TrainingError when it is not finite; no weight has changed then.
        """
        ...

    def logprobs(self, batch: Batch) -> Tensor:
        """Nats of every completion token, (B, T) float32, 0.0 elsewhere; without gradient."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the weights under their Hugging Face names, safe to hand to another thread."""
        ...

    def save(self, directory: Path) -> None:
        """Write weights, optimiser and random states into an empty directory."""
        ...

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote: the next step is the same.

        Raises ConfigError for another model's, TrainingError for what cannot be read.
        """
        ...

    def close(self) -> None:
        """Let go of what works for this engine elsewhere: other processes, a session. Safe to call twice."""
        ...


@runtime_checkable
class DistantEngine(Engine, Protocol):
    """An engine in another process: each wait for an answer costs time of its own."""

    def update(self, batch: Batch, loss: LossFunction, tokens: int, params: AdamParams) -> tuple[Pass, float]:
        """`forward_backward` and `optim_step`, both submitted before either is waited for."""
        ...


ENGINES: Registry[type[Engine]] = Registry(
    "engine",
    {
        "fsdp": "trainer.engines.fsdp_engine:FsdpEngine",
        "tinker": "trainer.engines.tinker_engine:TinkerEngine",
        "torch": "trainer.engines.torch_engine:TorchEngine",
    },
)
