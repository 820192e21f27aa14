"""Logprobs and entropy of completion tokens, with memory that does not grow with the vocabulary."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

HEAD_TOLERANCE = 1e-4  # float32 rounding between two ways to the same logits
LOGITS_PER_CHUNK = 1 << 24  # 64 MiB of float32; more are recomputed in the backward pass


class Scorer(torch.nn.Module):
    """A causal model that looks at the vocabulary only where the loss mask is, and there in parts."""

    def __init__(self, model: PreTrainedModel, temperature: float, *, bfloat16: bool) -> None:
        super().__init__()
        self.model = model
        self._temperature, self._bfloat16 = temperature, bfloat16
        self.vocabulary: int = model.get_input_embeddings().weight.shape[0]  # pyright: ignore
        self.plain_head = self._has_plain_head()

    def forward(self, token_ids: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Nats of each completion token and entropy before it, (B, T) each, 0.0 elsewhere."""
        mask = loss_mask[:, 1:]  # the first token of a row has nothing before it
        targets = token_ids[:, 1:][mask]
        with self._autocast(token_ids.device):
            if self.plain_head:
                hidden = self.model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
            else:
                hidden = self.model(input_ids=token_ids, use_cache=False).logits
            chosen = hidden[:, :-1][mask]
        logprobs, entropy = self._chunked_scores(chosen, targets)
        return _spread(logprobs, mask), _spread(entropy, mask)

    def _chunked_scores(self, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        rows = max(1, LOGITS_PER_CHUNK // self.vocabulary)
        if len(targets) <= rows:
            return self._scores(chosen, targets)
        parts = [
            checkpoint(self._scores, *pair, use_reentrant=False)
            for pair in zip(chosen.split(rows), targets.split(rows), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _scores(self, chosen: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with self._autocast(chosen.device):
            logits = _head(self.model)(chosen) if self.plain_head else chosen
        log_p = torch.log_softmax(logits.float() / self._temperature, dim=-1)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p).sum(dim=-1)
        return log_p.gather(-1, targets[:, None]).squeeze(-1), entropy

    @torch.no_grad()
    def _has_plain_head(self) -> bool:
        """Whether logits are the output matrix times the last hidden state; some models scale or cap them."""
        ids = torch.arange(min(8, self.vocabulary), device=self.model.device)[None]
        logits = self.model(input_ids=ids, use_cache=False).logits
        hidden = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return torch.allclose(_head(self.model)(hidden), logits, atol=HEAD_TOLERANCE, rtol=HEAD_TOLERANCE)

    @contextmanager
    def _autocast(self, device: torch.device) -> Iterator[None]:
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16):
            yield


def _head(model: PreTrainedModel) -> torch.nn.Module:
    head = model.get_output_embeddings()
    assert head is not None, "a causal language model has an output matrix"
    return head


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the True places of a (B, T - 1) mask as (B, T) with a first column of zeros."""
    grid = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    grid = grid.masked_scatter(mask, values)
    return torch.nn.functional.pad(grid, (1, 0))
