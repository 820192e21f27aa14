"""Any `transformers` model whose attention can be exchanged, over a slab of cached keys and values.

The model's own code computes everything but attention, on all rows at once; attention reads and writes the slab.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from core.errors import ConfigError
from trainer.inference.decoder import Interrupt, Interrupted, never
from trainer.inference.feed import Feed
from trainer.inference.kv_slab import KVSlab, SlabShape, cache_dtype
from trainer.inference.model_weights import assign_state, longest

ATTENTION = "natgym_slab"
"""What transformers knows our attention by."""


@dataclass
class _Step:
    """What the attention of one forward pass needs to know; the same bias serves all layers of one window."""

    feed: Feed
    slab: KVSlab
    places: Tensor
    interrupt: Interrupt
    biases: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None, softcap: float | None) -> Tensor:
        if self.interrupt():
            self.slab.erase(self.feed)
            raise Interrupted
        feed, cache = self.feed, (self.slab.k[layer], self.slab.v[layer])
        feed.write(k, v, cache, self.places)
        if window not in self.biases:
            self.biases[window] = feed.bias(cache[0].dtype, window)
        return feed.attend(q.to(cache[0].dtype), self.biases[window], cache, softcap).to(q.dtype)


_STEP: ContextVar[_Step] = ContextVar("step")


def _slab_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """What transformers calls: query, key and value of shape (1, heads, T, head_dim); gives (1, T, heads, head_dim)."""
    if settings.get("s_aux") is not None:
        raise ConfigError("attention sinks: a slab holds keys and values only")
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    scaling = settings.get("scaling")
    q = (q * (q.shape[-1] ** -0.5 if scaling is None else scaling)).contiguous()
    layer = module.layer_idx
    assert isinstance(layer, int)
    mixed = _STEP.get().attend(layer, q, k, v, settings.get("sliding_window"), settings.get("softcap"))
    return mixed.view(1, *q.shape), None


AttentionInterface.register(ATTENTION, _slab_attention)


class PackedDecoder:
    """Fulfils Decoder with a model that was loaded with the attention of this module."""

    def __init__(self, model: PreTrainedModel, device: str) -> None:
        config = model.config.get_text_config()
        self.device, self._model = device, model
        self.vocab_size, self.max_positions = config.vocab_size, longest(model)
        kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._shape = SlabShape(config.num_hidden_layers, 1, kv_heads, 1, head_dim)

    def slab(self, rows: int, max_length: int) -> KVSlab:
        """See Decoder."""
        return KVSlab(
            self._shape._replace(rows=rows, length=max_length), self.device, cache_dtype(self.device, self._model.dtype)
        )

    @torch.inference_mode()
    def forward(self, feed: Feed, slab: KVSlab, interrupt: Interrupt = never) -> Tensor:
        """See Decoder."""
        slab.reserve(feed.length)
        token = _STEP.set(_Step(feed, slab, feed.places(slab.k.shape[2], slab.length), interrupt))
        try:
            made = self._model(
                input_ids=feed.ids.unsqueeze(0),
                position_ids=feed.positions.unsqueeze(0),
                use_cache=False,
                logits_to_keep=0 if feed.last is None else feed.last,
            )
        finally:
            _STEP.reset(token)
        return made.logits[0].float()

    def assign(self, weights: Mapping[str, Tensor]) -> None:
        """See Decoder."""
        assign_state(self._model, weights)
