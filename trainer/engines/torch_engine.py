"""Training with plain PyTorch: any causal language model that transformers reads, in float32 unless told otherwise."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from core.errors import TrainingError, boundary
from core.logs import get_logger
from trainer.algorithms.base import AdamParams, LossFunction, Predictions
from trainer.batch import Batch
from trainer.engines.base import MODEL_FOLDER, EngineConfig, Pass
from trainer.weights import read_weights, save_model, shared_names, snapshot

log = get_logger("torch_engine")
HEAD_TOLERANCE = 1e-4  # float32 rounding between two ways to the same logits
LOGITS_PER_CHUNK = 1 << 24  # 64 MiB of float32; more are recomputed in the backward pass
STATE_FILE = "engine.pt"


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
    micro_batch_tokens: int = Field(default=768, ge=1, description="tokens of one forward pass, padding included")
    threads: int = Field(default=1, ge=1, description="two threads on two busy cores are ten times slower than one")
    temperature: float = Field(default=1.0, gt=0, description="what the sampler divides logits by")


class TorchEngine:
    """One model, one AdamW, on one device."""

    config_type: ClassVar[type[EngineConfig]] = TorchEngineConfig

    def __init__(self, source: Path, config: TorchEngineConfig, *, with_reference: bool = False) -> None:
        """The model of a Hugging Face directory, and a frozen twin of it as the reference.

        Raises TrainingError when the directory cannot be read.
        """
        torch.set_num_threads(config.threads)
        self._source, self._config = source, config
        self._device = torch.device(config.device)
        self._model = self._read_model()
        self._reference = self._read_model().requires_grad_(False) if with_reference else None
        self._optimiser = torch.optim.AdamW(self._model.parameters(), fused=True)
        self._plain_head = self._has_plain_head()

    @property
    def vocabulary(self) -> int:
        """Number of token ids that the model has."""
        return self._model.get_input_embeddings().weight.shape[0]  # pyright: ignore

    def forward_backward(self, batch: Batch, loss: LossFunction, tokens: int | None = None) -> Pass:
        """Add the gradient of that loss over the batch, in micro-batches."""
        total = tokens if tokens is not None else batch.tokens
        value, sums, maxima = 0.0, Counter[str](), dict[str, float]()
        for part in self._parts(batch):
            share = loss(self._predict(part), part, total)
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
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), limit).item()
        if not norm < torch.inf:
            self._optimiser.zero_grad()
            raise TrainingError(f"the gradient's norm is {norm}; no weight was changed")
        for group in self._optimiser.param_groups:
            group |= {"lr": params.lr, "betas": params.betas, "eps": params.eps, "weight_decay": params.weight_decay}
        self._optimiser.step()
        self._optimiser.zero_grad()
        return norm

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        """Nats of every completion token, (B, T) float32, 0.0 elsewhere."""
        values = torch.zeros(batch.token_ids.shape)
        order = torch.argsort(batch.lengths, descending=True, stable=True)
        start = 0
        for part in self._parts(batch):
            rows, width = order[start : start + len(part)], part.token_ids.shape[1]
            values[rows, :width] = self._predict(part).logprobs.cpu()
            start += len(part)
        return values

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the weights under their Hugging Face names."""
        return snapshot(self._model.state_dict())

    def save(self, directory: Path) -> None:
        """Write a Hugging Face directory `model` in float32, and the optimiser and random states beside it."""
        state = {
            "optimiser": self._optimiser.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self._device.type == "cuda" else [],
            "python_rng": random.getstate(),
        }
        with boundary(TrainingError, f"checkpoint {directory}"):
            save_model(self._model.state_dict(), self._source, directory / MODEL_FOLDER)
            torch.save(state, directory / STATE_FILE)

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote."""
        with boundary(TrainingError, f"checkpoint {directory}"):
            state = torch.load(directory / STATE_FILE, map_location="cpu", weights_only=True)
            self._load_weights(read_weights(directory / MODEL_FOLDER))
            self._optimiser.load_state_dict(state["optimiser"])
            torch.set_rng_state(state["torch_rng"])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state_all(state["cuda_rng"])
            version, words, gauss = state["python_rng"]
            random.setstate((version, tuple(words), gauss))

    def _read_model(self) -> PreTrainedModel:
        disable_progress_bar()  # logs are events
        with boundary(TrainingError, f"model {self._source}"):
            model = AutoModelForCausalLM.from_pretrained(
                self._source, dtype=torch.float32, attn_implementation=self._config.attention, local_files_only=True
            )
        assert isinstance(model, PreTrainedModel)
        _move(model, self._device)
        # dropout would make the ratio to the sampler noisy, so the model stays in evaluation mode
        return model.eval()

    def _load_weights(self, weights: dict[str, Tensor]) -> None:
        state = self._model.state_dict()
        missing = state.keys() - weights.keys() - shared_names(state)
        unknown = weights.keys() - state.keys()
        if missing or unknown:
            raise TrainingError(f"weights of another model: missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}")
        self._model.load_state_dict(weights, strict=False)

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        torch.set_num_threads(self._config.threads)  # counts per thread, and a worker thread may be a new one
        for part in batch.micro_batches(self._config.micro_batch_tokens):
            yield part.to(self._device)

    def _predict(self, batch: Batch) -> Predictions:
        if len(batch) and int(batch.token_ids.max()) >= self.vocabulary:
            raise TrainingError(f"token id {int(batch.token_ids.max())} is beyond the model's {self.vocabulary} tokens")
        logprobs, entropy = self._completion_scores(self._model, batch)
        if self._reference is None:
            return Predictions(logprobs, entropy)
        with torch.no_grad():
            return Predictions(logprobs, entropy, self._completion_scores(self._reference, batch)[0])

    def _completion_scores(self, model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logprobs and entropy of completion tokens, (B, T) each; the vocabulary is only looked at where they are."""
        mask = batch.loss_mask[:, 1:]  # the first token of a row has nothing before it
        targets = batch.token_ids[:, 1:][mask]
        with self._autocast():
            if self._plain_head:
                hidden = model.base_model(input_ids=batch.token_ids, use_cache=False).last_hidden_state
            else:
                hidden = model(input_ids=batch.token_ids, use_cache=False).logits
            chosen = hidden[:, :-1][mask]
        logprobs, entropy = self._chunked_scores(model, chosen, targets)
        return _spread(logprobs, mask), _spread(entropy, mask)

    def _chunked_scores(self, model: PreTrainedModel, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, LOGITS_PER_CHUNK // self.vocabulary)
        if len(targets) <= rows:
            return self._scores(model, chosen, targets)
        parts = [
            checkpoint(self._scores, model, *pair, use_reentrant=False)
            for pair in zip(chosen.split(rows), targets.split(rows), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _scores(self, model: PreTrainedModel, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with self._autocast():
            logits = _head(model)(chosen) if self._plain_head else chosen
        log_p = torch.log_softmax(logits.float() / self._config.temperature, dim=-1)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p).sum(dim=-1)
        return log_p.gather(-1, targets[:, None]).squeeze(-1), entropy

    @torch.no_grad()
    def _has_plain_head(self) -> bool:
        """Whether logits are the output matrix times the last hidden state; some models scale or cap them."""
        ids = torch.arange(min(8, self.vocabulary), device=self._device)[None]
        logits = self._model(input_ids=ids, use_cache=False).logits
        hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        plain = torch.allclose(_head(self._model)(hidden), logits, atol=HEAD_TOLERANCE, rtol=HEAD_TOLERANCE)
        log.debug("opened", parameters=self._model.num_parameters(), plain_head=plain)
        return plain

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        enabled = self._config.precision is Precision.BFLOAT16
        with torch.autocast(self._device.type, torch.bfloat16, enabled=enabled):
            yield


def _move(module: torch.nn.Module, device: torch.device) -> None:
    module.to(device)


def _head(model: PreTrainedModel) -> torch.nn.Module:
    head = model.get_output_embeddings()
    assert head is not None, "a causal language model has an output matrix"
    return head


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the True places of a (B, T - 1) mask as (B, T) with a first column of zeros."""
    grid = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    grid = grid.masked_scatter(mask, values)
    return torch.nn.functional.pad(grid, (1, 0))
