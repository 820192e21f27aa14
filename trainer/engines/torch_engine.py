"""Training with plain PyTorch: any causal language model that transformers reads, in float32 unless told otherwise."""

import random
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from core.errors import ConfigError, TrainingError, boundary
from core.logs import get_logger
from trainer.algorithms.base import AdamParams, LossFunction, Predictions
from trainer.batch import Batch
from trainer.engines.base import MODEL_FOLDER, EngineConfig, Pass
from trainer.engines.compiling import compile_parts
from trainer.engines.lora import (
    LoraSettings,
    adapter_state,
    add_adapters,
    merged_state,
    save_adapter,
    without_adapters,
)
from trainer.engines.out_of_memory import enough_memory, ran_out
from trainer.engines.packing import Layout, cut
from trainer.engines.scoring import Scorer
from trainer.model_folder import read_model
from trainer.weights import read_weights, save_model, shared_names, snapshot

log = get_logger("torch_engine")
STATE_FILE = "engine.pt"
T = TypeVar("T")


class Precision(StrEnum):
    """What the forward and backward passes compute in; weights and optimiser are float32 always."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class TorchEngineConfig(EngineConfig):
    """Settings of the torch engine."""

    name: str = "torch"
    device: str = "cpu"
    precision: Precision = Precision.FLOAT32
    attention: str = Field(default="sdpa", description="attention implementation of transformers")
    layout: Layout = Field(default=Layout.SHARED, description="how rows lie in a forward pass: shared, packed, padded")
    micro_batch_tokens: int = Field(default=4096, ge=1, description="tokens of one forward pass, padding included")
    halve_when_out_of_memory: bool = Field(default=True, description="halve micro_batch_tokens instead of ending the run")
    gradient_checkpointing: bool = Field(default=False, description="compute activations twice instead of keeping them")
    compile: bool = Field(default=False, description="compile parts of each block first: minutes, then faster steps on a GPU")
    lora: LoraSettings | None = Field(default=None, description="train adapters of that shape instead of the whole model")
    threads: int = Field(default=1, ge=1, description="two threads on two busy cores are ten times slower than one")
    temperature: float = Field(default=1.0, gt=0, description="what the sampler divides logits by")


class TorchEngine:
    """One model, one AdamW, on one device."""

    config_type: ClassVar[type[EngineConfig]] = TorchEngineConfig
    _read_as: ClassVar[torch.dtype | None] = torch.float32

    def __init__(self, source: Path, config: TorchEngineConfig, *, with_reference: bool = False) -> None:
        """The model of a Hugging Face directory, and a frozen twin of it as the reference.

        Raises ConfigError for a directory or a device that cannot be used, TrainingError where memory runs out.
        """
        torch.set_num_threads(config.threads)
        self._source, self._config = source, config
        self._device = _usable(config.device)
        self._with_reference, self._micro_batch_tokens = with_reference, config.micro_batch_tokens
        self._scorer = self._opened(learns=True)
        self._model = self._scorer.model
        # with adapters, the reference is the model without them
        twin = with_reference and config.lora is None
        self._reference = self._opened(learns=False) if twin else None
        if config.lora is not None:
            add_adapters(self._model, config.lora)
        if config.gradient_checkpointing:
            _recomputed_activations(self._model)
        if config.compile:
            self._compile()
        learned = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(learned, fused=True)
        log.debug("opened", parameters=self._model.num_parameters(), learned=sum(one.numel() for one in learned))

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model has."""
        return self._scorer.vocabulary

    def forward_backward(self, batch: Batch, loss: LossFunction, tokens: int | None = None) -> Pass:
        """Add the gradient of that loss over the batch, in micro-batches; smaller ones where memory runs out."""
        self._check_ids(batch)
        return self._in_memory(batch, lambda: self._one_pass(batch, loss, tokens if tokens is not None else batch.tokens))

    def _one_pass(self, batch: Batch, loss: LossFunction, tokens: int) -> Pass:
        value, sums, maxima = 0.0, Counter[str](), dict[str, float]()
        for part in self._shares(batch):
            share = loss(self._predict(part), part, tokens)
            if not torch.isfinite(share.value):
                self._optimiser.zero_grad()
                raise TrainingError(f"the loss is {share.value.item()}; the batch was not learned from")
            share.value.backward()
            value += share.value.item()
            sums.update({name: number.item() for name, number in share.sums.items()})
            maxima |= {name: max(number.item(), maxima.get(name, -torch.inf)) for name, number in share.maxima.items()}
        passed = batch.tokens
        means = {name: number / max(passed, 1) for name, number in sums.items()}
        return Pass(value, means, maxima, passed, int(batch.lengths.sum()))

    def optim_step(self, params: AdamParams) -> float:
        """Clip, step, clear the gradient. The gradient's norm before clipping."""
        limit = params.grad_clip or torch.inf
        norm = self._clipped_norm(limit)
        if not norm < torch.inf:
            self._optimiser.zero_grad()
            raise TrainingError(f"the gradient's norm is {norm}; no weight was changed")
        for group in self._optimiser.param_groups:
            group |= {"lr": params.lr, "betas": params.betas, "eps": params.eps, "weight_decay": params.weight_decay}
        with enough_memory("in an optimiser step", "set engine.lora, or use the engine fsdp on more processes"):
            self._optimiser.step()
        self._optimiser.zero_grad()
        return norm

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        """Nats of every completion token, (B, T) float32, 0.0 elsewhere."""
        self._check_ids(batch)
        return self._in_memory(batch, lambda: self._all_logprobs(batch))

    def _all_logprobs(self, batch: Batch) -> Tensor:
        numbered = replace(batch, weights=torch.arange(len(batch), dtype=torch.float32)[:, None].expand(batch.weights.shape))
        values = torch.zeros(batch.token_ids.shape)
        for part in self._shares(numbered):
            rows, width = part.weights[:, 0].long().cpu(), part.token_ids.shape[1]
            scores = self._scorer(part.token_ids, part.loss_mask)[0].cpu()
            values[rows, :width] = torch.where(part.loss_mask.cpu(), scores, values[rows, :width])
        return self._shared_logprobs(values)

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the weights under their Hugging Face names, adapters merged."""
        return snapshot(self._weights())

    def each_weight(self) -> Generator[tuple[str, Tensor], None, None]:
        """The weights one after the other, adapters merged, tied ones once; the very tensors, where nothing is merged."""
        weights = self._weights()
        tied = shared_names(weights)
        yield from ((name, value) for name, value in weights.items() if name not in tied)

    def save_adapter(self, directory: Path) -> None:
        """Write the adapter alone, as peft does. Raises TrainingError where the whole model learns."""
        if self._config.lora is None:
            raise TrainingError("the whole model learns: there is no adapter without engine.lora")
        with boundary(TrainingError, f"adapter {directory}"):
            save_adapter(self._model, self._config.lora, self._source, directory)

    def close(self) -> None:
        """Nothing works for this engine elsewhere."""

    def save(self, directory: Path) -> None:
        """Write a Hugging Face directory `model` in float32, and the optimiser and random states beside it."""
        state = {
            "optimiser": self._optimiser.state_dict(),
            "adapters": adapter_state(self._model) if self._config.lora is not None else {},
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else [],
            "python_rng": random.getstate(),
        }
        with boundary(TrainingError, f"checkpoint {directory}"):
            save_model(self._weights(), self._source, directory / MODEL_FOLDER)
            torch.save(state, directory / STATE_FILE)

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote."""
        with boundary(TrainingError, f"checkpoint {directory}"):
            state = torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True)
            self._load_weights(state["adapters"] if self._config.lora is not None else read_weights(directory / MODEL_FOLDER))
            self._optimiser.load_state_dict(state["optimiser"])
            torch.set_rng_state(state["torch_rng"])
            if self._device.type == "cuda":
                for random_state in state["cuda_rng"]:  # none, where it was written without a GPU
                    torch.cuda.set_rng_state(random_state, self._device)
            version, words, gauss = state["python_rng"]
            random.setstate((version, tuple(words), gauss))

    def _opened(self, *, learns: bool) -> Scorer:
        """The model of the directory, where it is computed."""
        config = self._config
        # dropout would make the ratio to the sampler noisy, so the model stays in evaluation mode
        model = read_model(self._source, self._read_as, config.attention).eval().requires_grad_(learns)
        scorer = Scorer(model, config.temperature)
        with enough_memory(f"for the model on {self._device}", "set engine.device, or use the engine fsdp on more processes"):
            self._place(scorer)
        scorer.settle(config.layout, bfloat16=config.precision is Precision.BFLOAT16)
        return scorer

    def _place(self, scorer: Scorer) -> None:
        """Bring a model that was read to where it is computed."""
        scorer.to(self._device)

    def _compile(self) -> None:
        """Compile what can be; the rest stays as it is."""
        compile_parts(self._scorer)

    def _clipped_norm(self, limit: float) -> float:
        """The gradient's norm before it is clipped to the limit."""
        return torch.nn.utils.clip_grad_norm_(self._model.parameters(), limit).item()

    def _shared_logprobs(self, values: Tensor) -> Tensor:
        """The values of all processes, where there are several."""
        return values

    def _weights(self) -> dict[str, Tensor]:
        return self._model.state_dict() if self._config.lora is None else merged_state(self._model)

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        state = self._model.state_dict()
        wanted = state.keys() if self._config.lora is None else adapter_state(self._model).keys()
        missing = wanted - weights.keys() - shared_names(state)
        unknown = weights.keys() - wanted
        if missing or unknown:
            raise ConfigError(f"weights of another model: missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}")
        # adapters are not all of the state under its own names
        for name, found in weights.items():
            if name in state and found.shape != state[name].shape:
                shapes = f"{tuple(found.shape)}, not {tuple(state[name].shape)}"
                raise ConfigError(f"weights of another model: {name} has the shape {shapes}")
        self._model.load_state_dict(weights, strict=False)

    def _shares(self, batch: Batch) -> Iterator[Batch]:
        """The micro-batches that this process computes."""
        torch.set_num_threads(self._config.threads)  # counts per thread, and a worker thread may be a new one
        budget = self._micro_batch_tokens
        if self._scorer.layout is Layout.PADDED:
            yield from (part.to(self._device) for part in batch.micro_batches(budget))
        else:
            for rows in cut(batch.token_ids, batch.loss_mask, budget, self._scorer.least_shared):
                yield batch.rows(torch.tensor(rows)).to(self._device)

    def _predict(self, batch: Batch) -> Predictions:
        logprobs, entropy = self._scorer(batch.token_ids, batch.loss_mask)
        return Predictions(logprobs, entropy, self._reference_logprobs(batch) if self._with_reference else None)

    @torch.no_grad()
    def _reference_logprobs(self, batch: Batch) -> Tensor:
        if self._reference is not None:
            return self._reference(batch.token_ids, batch.loss_mask)[0]
        with without_adapters(self._model):
            return self._scorer(batch.token_ids, batch.loss_mask)[0]

    def _check_ids(self, batch: Batch) -> None:
        if len(batch) and int(batch.token_ids.max()) >= self.vocabulary:
            raise TrainingError(f"token id {int(batch.token_ids.max())} is beyond the model's {self.vocabulary} tokens")

    def _in_memory(self, batch: Batch, work: Callable[[], T]) -> T:
        """What the work gives, begun again with smaller micro-batches where memory runs out."""
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
                self._make_room(batch, error)

    def _make_room(self, batch: Batch, error: Exception) -> None:
        """Halve the micro-batches after memory ran out. Raises TrainingError where that is not allowed or not possible."""
        self._optimiser.zero_grad()
        longest = int(batch.lengths.max())
        if not self._config.halve_when_out_of_memory or self._micro_batch_tokens <= longest:
            raise TrainingError(
                f"out of memory with micro-batches of {self._micro_batch_tokens} tokens and rows of up to {longest}: lower "
                "engine.micro_batch_tokens or policy.max_tokens, or set engine.gradient_checkpointing = true"
            ) from error
        self._micro_batch_tokens = max(longest, self._micro_batch_tokens // 2)
        log.warning("out_of_memory", micro_batch_tokens=self._micro_batch_tokens, setting="engine.micro_batch_tokens")
        if self._device.type != "cpu":
            torch.get_device_module(self._device).empty_cache()


def _recomputed_activations(model: PreTrainedModel) -> None:
    """Trade a second forward pass for the memory of activations; transformers does so in training mode only."""
    model.activation_checkpointing_enable()
    model.train()
    for module in model.modules():  # dropout would make the ratio to the sampler noisy
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # pyright: ignore


def _usable(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name)
        return torch.device(name)
    except (AssertionError, RuntimeError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"engine.device {name!r} cannot be used: {problem}") from error
