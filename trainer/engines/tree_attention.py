"""Attention over a pack: each segment looks at the segments above it and at itself, and at nothing else.

A function that transformers calls in place of its own, under a name of ours. Work and memory grow with what is seen:
no mask over the whole pack is made.
"""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from typing_extensions import Unpack

from trainer.engines.packing import Segment

TREE_ATTENTION = "natgym_tree"


class Sight:
    """The segments of a pack, for which token sees which; torch.compile would look into a tuple and guard on each length."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments


class Seen(TypedDict, total=False):
    """What transformers hands on to attention, as far as we look at it."""

    sight: Sight
    scaling: float


@torch.compiler.disable
def tree_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **seen: Unpack[Seen]
) -> tuple[Tensor, None]:
    """What each token gathers, (1, N, heads, head_dim); of query (1, heads, N, head_dim), key and value (1, kv heads, ...).

    Without a sight: rows below each other, causal. Not compiled: each pack has other segments.
    """
    sight, scaling = seen.pop("sight", None), seen.get("scaling")
    if sight is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **seen)
    segments = sight.segments
    heads_per_key = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(heads_per_key, dim=1) if heads_per_key > 1 else part for part in (key, value))
    # the gradient of a split is one concatenation, that of as many slices as many tensors of the whole size
    queries, keys, values = (part.split([segment.length for segment in segments], dim=2) for part in (query, key, value))
    mixed: list[Tensor] = []
    for number, segment in enumerate(segments):
        if not segment.above:
            pair = keys[number], values[number]
            mixed.append(scaled_dot_product_attention(queries[number], *pair, is_causal=True, scale=scaling))
            continue
        path = (*segment.above, number)
        pair = (torch.cat([parts[one] for one in path], dim=2) for parts in (keys, values))
        before = sum(segments[one].length for one in segment.above)
        places = torch.arange(before + segment.length, device=query.device)
        mask = places <= places[before:, None]  # not tril, which not every device has for bool
        mixed.append(scaled_dot_product_attention(queries[number], *pair, attn_mask=mask, scale=scaling))
    return torch.cat(mixed, dim=2).transpose(1, 2), None


AttentionInterface.register(TREE_ATTENTION, tree_attention)
