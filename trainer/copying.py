"""Starting weights from which a small model can copy, before it has learnt anything.

What a policy of this domain does most is to repeat: names and numbers of the plan stand again in every file. The
circuit for that is an induction head: one head writes down which token stood before each position, a head of the
next layer looks for the place before which the current token stood, and says what stands there. It appears by itself
only after millions of tokens; here it is planted, and training makes of it what it needs.
Sources: induction heads, Olsson et al. 2022, arXiv 2209.11895; weights that begin as what training would make of
them, Trockman and Kolter 2023, arXiv 2305.09828.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CONSTANT = 0.3  # of every embedding, in its first dimension: what a head that looks by position alone looks with
WRITTEN = 0.05  # scale of what the first head writes: as long as an embedding
SAID = 0.15  # scale of what the second head says: a few nats
FAST_PAIRS = 6  # rotary pairs that tell neighbouring positions apart
SLOW_FROM = 21  # rotary pairs that hardly turn over a few hundred positions: content can be compared in them
QUIET = 0.3  # about 1 / sqrt(twice the layers), as GPT-2 begins
SHARPNESS = 1.5  # gain of normalised queries and keys of the first layer


class _Spaces(NamedTuple):
    """Orthonormal rows, (head_dim, width) each, zero in the first dimension."""

    token: "Tensor"
    """Which token stands here."""
    before: "Tensor"
    """Which token stood before; embeddings have nothing in it."""


def plant_copying(model: "PreTrainedModel", seed: int = 0) -> None:
    """Plant an induction head into the first two layers of a Qwen3 model with random weights, in place.

    Takes query head 0 of key/value head 0 in the first layer, and the first query head of key/value head 1 in the second.
    """
    import torch

    config: Any = model.config
    layers: Any = model.get_decoder().layers
    embeddings: Any = model.get_input_embeddings().weight
    width, head = config.hidden_size, config.head_dim
    spaces = _spaces(width, head, seed)
    first, second = layers[0].self_attn, layers[1].self_attn
    with torch.no_grad():
        embeddings -= embeddings @ spaces.before.T @ spaces.before
        embeddings[:, 0] = CONSTANT
        for layer in layers:
            _quieten(layer)
        _look_one_back(first, head)
        first.v_proj.weight[:head] = spaces.token
        first.o_proj.weight[:, :head] = WRITTEN * spaces.before.T
        query = config.num_attention_heads // config.num_key_value_heads * head
        slow = [*range(SLOW_FROM, head // 2), *range(head // 2 + SLOW_FROM, head)]
        for weight, start, space in ((second.q_proj.weight, query, spaces.token), (second.k_proj.weight, head, spaces.before)):
            weight[start : start + head] = 0.0
            weight[[start + row for row in slow]] = space[: len(slow)]
        second.v_proj.weight[head : 2 * head] = spaces.token
        second.o_proj.weight[:, query : query + head] = SAID * spaces.token.T


def _quieten(layer: Any) -> None:
    """Keep the rest of a layer from drowning what is planted: it reads no constant, and adds little at first."""
    for reader in (layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
        reader.weight[:, 0] = 0.0
    for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
        writer.weight *= QUIET


def _look_one_back(attention: Any, head: int) -> None:
    """Head 0 attends to the position before: its key is constant, its query is that key turned back by one position."""
    import torch

    angles = 10_000.0 ** (-torch.arange(FAST_PAIRS) / (head // 2))
    second_half = slice(head // 2, head // 2 + FAST_PAIRS)
    attention.k_proj.weight[:head] = 0.0
    attention.k_proj.weight[:FAST_PAIRS, 0] = 1.0
    attention.q_proj.weight[:head] = 0.0
    attention.q_proj.weight[:FAST_PAIRS, 0] = torch.cos(angles)
    attention.q_proj.weight[second_half, 0] = -torch.sin(angles)
    attention.q_norm.weight[:] = SHARPNESS
    attention.k_norm.weight[:] = SHARPNESS


def _spaces(width: int, head: int, seed: int) -> _Spaces:
    import torch

    generator = torch.Generator().manual_seed(seed)
    rows = torch.zeros(2 * head, width)
    rows[:, 1:] = torch.linalg.qr(torch.randn(width - 1, 2 * head, generator=generator)).Q.T
    return _Spaces(rows[:head], rows[head:])
