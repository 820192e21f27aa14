"""Any causal model of `transformers`, row by row with the cache that its own code makes: slow, and right for all.

For what cannot share a slab: linear attention, state spaces, several kinds of heads. A state cannot be cut back to
fewer tokens, so such a row is reused by who continues it exactly where it ends.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicLayer

from trainer.inference.decoder import Interrupt, never
from trainer.inference.feed import Feed
from trainer.inference.model_weights import assign_state, longest


@dataclass
class _Row:
    """One row's cache, after `tokens`."""

    cache: Any
    tokens: int

    def cut(self, tokens: int) -> "_Row":
        """A copy after the first `tokens`."""
        cache = deepcopy(self.cache)
        if tokens < self.tokens:
            cache.crop(tokens - self.tokens)
        return _Row(cache, tokens)

    @property
    def can_be_cut(self) -> bool:
        """Whether every layer keeps all keys and values, in order."""
        layers = getattr(self.cache, "layers", ())
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


class RowSlab:
    """Fulfils Slab with a cache of the model's own for each row."""

    def __init__(self, rows: int) -> None:
        self.rows: list[_Row | None] = [None] * rows

    def reusable(self, row: int | None, saved: _Row | None, tokens: int, shared: int) -> int:
        """See Slab."""
        held = saved if row is None else self.rows[row]
        return shared if held is not None and (held.can_be_cut or held.tokens == shared) else 0

    def copy_row(self, source: int, target: int, tokens: int) -> None:
        """See Slab."""
        self.rows[target] = self.save(source, tokens)

    def save(self, row: int, tokens: int) -> _Row:
        """See Slab."""
        held = self.rows[row]
        assert held is not None
        return held.cut(tokens)

    def restore(self, saved: _Row, row: int, tokens: int) -> None:
        """See Slab."""
        self.rows[row] = saved.cut(tokens)

    def clear_row(self, row: int) -> None:
        """See Slab."""
        self.rows[row] = None

    def free_row(self, row: int, tokens: int) -> None:
        """See Slab."""
        self.rows[row] = None


class RowDecoder:
    """Fulfils Decoder with any model that gives logits and takes its own cache back."""

    def __init__(self, model: PreTrainedModel, device: str, *, one_by_one: bool = False) -> None:
        """`one_by_one`: a row goes on token by token, for models that continue a state by no other way."""
        self.device, self._model, self._one_by_one = device, model, one_by_one
        self.vocab_size, self.max_positions = model.config.get_text_config().vocab_size, longest(model)
        self._takes = "cache_params" if "cache_params" in signature(model.forward).parameters else "past_key_values"

    def slab(self, rows: int, max_length: int) -> RowSlab:
        """See Decoder."""
        return RowSlab(rows)

    @torch.inference_mode()
    def forward(self, feed: Feed, slab: RowSlab, interrupt: Interrupt = never) -> Tensor:
        """See Decoder. Goes on to the end: a state that has seen some of the tokens cannot be set back."""
        counts = torch.bincount(feed.rows - feed.first_row, minlength=feed.count).tolist()
        logits, begin = [], 0
        for row, count in enumerate(counts, feed.first_row):
            logits.append(self._continue(feed.ids[begin : begin + count], int(feed.positions[begin]), row, slab))
            begin += count
        return torch.stack(logits).float()

    def assign(self, weights: Mapping[str, Tensor]) -> None:
        """See Decoder."""
        assign_state(self._model, weights)

    def _continue(self, ids: Tensor, start: int, row: int, slab: RowSlab) -> Tensor:
        """Logits (vocab) after the last of these tokens of one row."""
        held = slab.rows[row] if start else None
        cache, logits = (None if held is None else held.cache), None
        for part in ids.split(1 if start and self._one_by_one else len(ids)):
            made = self._model(input_ids=part.unsqueeze(0), use_cache=True, **{self._takes: cache})
            cache, logits = made[self._takes], made.logits[0, -1]
        slab.rows[row] = _Row(cache, start + len(ids))
        assert logits is not None
        return logits
