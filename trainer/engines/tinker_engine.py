"""Training at a Tinker service: adapters, gradients and the optimiser are there, the loop and the checkpoints' names here.

A loss that the service knows takes one pass of the model; any other is computed here from the service's logprobs, and
its derivative goes back as advantages: two passes. Weights never come here; who samples does so there, too.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from pydantic import Field
from torch import Tensor

from core.config import Config, read_file, validated
from core.errors import ConfigError, NatgymError, TrainingError, UnknownName, boundary
from core.logs import get_logger
from core.settings import read_secret
from trainer.algorithms.base import AdamParams, Algorithm, LossFunction
from trainer.batch import Batch
from trainer.engines.base import MODEL_FOLDER, EngineConfig, Pass
from trainer.engines.tinker_losses import (
    DERIVATIVE,
    LIKELIHOOD,
    derivative_rows,
    derived,
    predictions_from,
    rows_for,
    scales,
    service_loss,
    unweighted_rows,
)
from trainer.engines.tinker_service import KEY_VARIABLE, ServiceLoss, TinkerModel, TinkerService, TinkerSnapshot

log = get_logger("tinker_engine")
STATE_FILE = "tinker.json"
MONTH_SECONDS = 30 * 24 * 3600


class TinkerEngineConfig(EngineConfig):
    """Settings of the tinker engine. The key comes from TINKER_API_KEY alone."""

    name: str = "tinker"
    base_url: str | None = Field(default=None, description="address of the service; TINKER_BASE_URL, else Tinker's own")
    base_model: str | None = Field(default=None, description="the service's name of the model; else the path in `model`")
    rank: int = Field(default=32, ge=1, description="of the adapters that are trained")
    seed: int = Field(default=0, description="of their first weights")
    exact_loss: bool = Field(default=False, description="our formula even where the service has one: 1.5 times the work")
    mean_losses: bool = Field(default=False, description="the service takes means over a row and rows, as skyrl's JAX does")
    max_length: int = Field(default=4096, ge=2, description="tokens of a row, and of prompt and completion together")
    max_requests: int = Field(default=256, ge=1, description="completions at once; more are told to come again")
    call_seconds: float = Field(default=600.0, gt=0, description="longest wait for one answer")
    state_seconds: int | None = Field(
        default=MONTH_SECONDS, ge=1, description="how long checkpoints are kept there; None: ever"
    )


class State(Config):
    """What a checkpoint knows of the model at the service."""

    state: str = Field(pattern="^tinker://")
    base_model: str
    rank: int


class TinkerEngine:
    """One adapter at a service."""

    config_type: ClassVar[type[EngineConfig]] = TinkerEngineConfig

    def __init__(self, source: Path, config: TinkerEngineConfig, *, with_reference: bool = False) -> None:
        """A session at the service for the model whose tokenizer and config.json are in the directory.

        Raises ConfigError for a key that is missing or refused, UnknownName for a model that the service does not have,
        TrainingError where nobody answers.
        """
        _refuse_reference(with_reference)
        self.config, self.vocabulary = config, _vocabulary(source)
        self.base_model = config.base_model or str(source)
        self.service = TinkerService(config.base_url, read_secret(KEY_VARIABLE), config.call_seconds)
        if self.service.models and self.base_model not in self.service.models:
            raise UnknownName(f"base model at {self.service.url}", self.base_model, self.service.models)
        self._made: TinkerModel | None = None
        self._broken = ""

    def forward_backward(self, batch: Batch, loss: LossFunction, tokens: int | None = None) -> Pass:
        """Add the gradient of that loss over the batch; see Engine."""
        self._check(batch)
        with self._whole():
            return self._submit(batch, loss, batch.tokens if tokens is None else tokens)()

    def optim_step(self, params: AdamParams) -> float:
        """Clip, step, clear the gradient. The gradient's norm; 0.0 where the service does not tell it."""
        with self._whole():
            return _checked_norm(self._model.optim_step(params)())

    def update(self, batch: Batch, loss: LossFunction, tokens: int, params: AdamParams) -> tuple[Pass, float]:
        """Both, submitted before either is waited for: every wait would cost a cycle of the service's clock."""
        self._check(batch)
        with self._whole():
            measured = self._submit(batch, loss, tokens)
            norm = self._model.optim_step(params)
            return measured(), _checked_norm(norm())

    def logprobs(self, batch: Batch) -> Tensor:
        """Nats of every completion token, (B, T) float32, 0.0 elsewhere."""
        self._check(batch)
        with self._whole():
            return predictions_from(batch, self._model.forward(unweighted_rows(batch))).logprobs.detach()

    def state_dict(self) -> dict[str, Tensor]:
        """Empty: the weights stay at the service, where `snapshot` makes a sampler of them."""
        return {}

    def snapshot(self) -> TinkerSnapshot:
        """Somebody who samples with the weights as they are now."""
        with self._whole():
            return self._model.snapshot()

    def save(self, directory: Path) -> None:
        """Have the service keep weights and optimiser, and write down where."""
        with self._whole():
            path = self._model.save(f"natgym-{uuid4().hex[:16]}", self.config.state_seconds)
        state = State(state=path, base_model=self.base_model, rank=self.config.rank)
        with boundary(TrainingError, f"checkpoint {directory}"):
            (directory / MODEL_FOLDER).mkdir()
            (directory / MODEL_FOLDER / STATE_FILE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote."""
        file = directory / MODEL_FOLDER / STATE_FILE
        if not file.is_file():
            raise TrainingError(f"{directory} is no checkpoint of the engine 'tinker': there is no {MODEL_FOLDER}/{STATE_FILE}")
        state = validated(State, read_file(file), str(file))
        wanted = (self.base_model, self.config.rank)
        if (state.base_model, state.rank) != wanted:
            raise TrainingError(f"{file}: of {state.base_model} at rank {state.rank}, expected {wanted[0]} at rank {wanted[1]}")
        self._made = self.service.restore(state.state, *wanted, self.config.seed)
        self._broken = ""
        log.info("tinker_restored", state=state.state)

    def close(self) -> None:
        """End the session at the service."""
        self.service.close()

    @property
    def _model(self) -> TinkerModel:
        """The adapter; made when it is first needed, because a checkpoint brings its own."""
        if self._made is None:
            self._made = self.service.create(self.base_model, self.config.rank, self.config.seed)
        return self._made

    def _submit(self, batch: Batch, loss: LossFunction, tokens: int) -> Callable[[], Pass]:
        """Have the gradient added; call what comes back to wait, and to learn what was measured."""
        known, scale = _known(self.config, loss), scales(batch, means=self.config.mean_losses)
        if known is not None:
            answer = self._model.forward_backward(rows_for(batch, known, tokens, scale), known)
            return lambda: derived(batch, loss, tokens, answer())[0]
        logprobs = self._model.forward(unweighted_rows(batch))
        measured, weights = derived(batch, loss, tokens, logprobs)
        added = self._model.forward_backward(derivative_rows(batch, logprobs, weights, scale), DERIVATIVE)

        def done() -> Pass:
            added()
            return measured

        return done

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Refuse to go on after a call that failed: what the service did of it, nobody knows."""
        if self._broken:
            raise TrainingError(f"the model at the service is in an unknown state; go on by --resume. First: {self._broken}")
        try:
            yield
        except NatgymError as error:
            self._broken = str(error)
            self.service.give_up()
            raise

    def _check(self, batch: Batch) -> None:
        """What a service would pass over in silence. Raises TrainingError; nothing was sent."""
        if not len(batch):
            raise TrainingError("a batch without rows")
        largest, longest = int(batch.token_ids.max()), int(batch.lengths.max())
        if largest >= self.vocabulary:
            raise TrainingError(f"token id {largest} is beyond the model's {self.vocabulary} tokens")
        if longest > self.config.max_length:
            raise TrainingError(f"a row has {longest} tokens, more than engine.max_length = {self.config.max_length}")
        if int(batch.lengths.min()) < 2:
            raise TrainingError("a row of less than two tokens has nothing to learn")


def plan(source: Path, config: TinkerEngineConfig, algorithm: Algorithm) -> dict[str, str]:
    """What a run would do at the service, told without asking it. Raises ConfigError."""
    _refuse_reference(algorithm.needs_reference)
    known = _known(config, algorithm.loss)
    settings = ", ".join(f"{name} {value:g}" for name, value in (known.settings if known else {}).items())
    here = "ours, computed here: two passes, the second as importance_sampling"
    return {
        "service": config.base_url or "TINKER_BASE_URL, else Tinker's own",
        "key": f"{KEY_VARIABLE} is {'set' if read_secret(KEY_VARIABLE) else 'not set: the run will not start'}",
        "base model": f"{config.base_model or source}, {_vocabulary(source):,} token ids",
        "adapters": f"rank {config.rank}; weights and optimiser stay at the service",
        "loss": here if known is None else f"{known.name}{f' ({settings})' if settings else ''}: one pass at the service",
        "memory": "next to none here: no model is loaded",
    }


def _known(config: TinkerEngineConfig, loss: LossFunction) -> ServiceLoss | None:
    """What the service computes in one pass; None where the loss is computed here."""
    known = None if config.exact_loss else service_loss(loss)
    # a mean of the likelihood is the same whatever its weights are multiplied by, so it cannot be undone
    return None if known == LIKELIHOOD and config.mean_losses else known


def _refuse_reference(wanted: bool) -> None:
    if wanted:
        raise ConfigError("the engine 'tinker' has no frozen model to compare with: set algorithm.kl = 0, and no dpo")


def _vocabulary(source: Path) -> int:
    """Number of token ids of the model whose config.json lies there. Raises ConfigError."""
    file = source / "config.json"
    if not file.is_file():
        raise ConfigError(f"trainer.model: {source} holds no config.json; the base model's tokenizer and config belong there")
    shape = read_file(file)
    text = shape.get("text_config")
    size = (text if isinstance(text, dict) else shape).get("vocab_size")
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"{file}: vocab_size is {size!r}, expected the number of token ids")
    return size


def _checked_norm(norm: float | None) -> float:
    if norm is not None and not math.isfinite(norm):
        raise TrainingError(f"the gradient's norm was {norm} when the service stepped on it; go on by --resume")
    return norm or 0.0
