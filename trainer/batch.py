"""Samples as tensors: padded on the right, cut into micro-batches of rows of similar length.

A causal model never looks to the right, so padding needs no attention mask and changes no real token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from core.types import Sample


@dataclass(frozen=True)
class Batch:
    """B samples of at most T tokens. Padding holds id 0, mask False, 0.0.

    token_ids (B, T) int64, loss_mask (B, T) bool, logprobs and advantages (B, T) float32, lengths (B,) int64.
    old_logprobs and weights (B, T) float32: what a ratio is taken against, the sampler's logprobs unless told; and what
    a token counts, 1.0 unless told.
    """

    token_ids: Tensor
    loss_mask: Tensor
    logprobs: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    weights: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Completion tokens: where the loss mask is True."""
        return int(self.loss_mask.sum())

    def rows(self, indices: Tensor) -> "Batch":
        """Those rows only, cut to the longest of them."""
        lengths = self.lengths[indices]
        width = int(lengths.max()) if len(lengths) else 0
        cut = {item.name: getattr(self, item.name)[indices, :width] for item in fields(self) if item.name != "lengths"}
        return Batch(**cut, lengths=lengths)

    def with_signal(self) -> "Batch":
        """The rows with an advantage other than zero: without a KL term, all others have no gradient."""
        return self.rows(torch.nonzero((self.advantages != 0).any(dim=1)).flatten())

    def micro_batches(self, token_budget: int) -> Iterator["Batch"]:
        """The rows, longest first, in parts of at most `token_budget` tokens with padding; at least one row each."""
        order = torch.argsort(self.lengths, descending=True, stable=True)
        start = 0
        while start < len(order):
            width = max(1, int(self.lengths[order[start]]))
            count = max(1, token_budget // width)
            yield self.rows(order[start : start + count])
            start += count

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return Batch(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples as one batch, in their order."""
    shape = len(samples), max((len(sample.token_ids) for sample in samples), default=0)
    batch = Batch(
        token_ids=torch.zeros(shape, dtype=torch.int64),
        loss_mask=torch.zeros(shape, dtype=torch.bool),
        logprobs=torch.zeros(shape),
        advantages=torch.zeros(shape),
        old_logprobs=torch.zeros(shape),
        weights=torch.ones(shape),
        lengths=torch.tensor([len(sample.token_ids) for sample in samples], dtype=torch.int64),
    )
    for row, sample in enumerate(samples):
        length = len(sample.token_ids)
        batch.token_ids[row, :length] = torch.tensor(sample.token_ids, dtype=torch.int64)
        batch.loss_mask[row, :length] = torch.tensor(sample.loss_mask)
        batch.logprobs[row, :length] = batch.old_logprobs[row, :length] = torch.tensor(sample.logprobs)
        batch.advantages[row, :length] = torch.tensor(sample.advantages)
    return batch
