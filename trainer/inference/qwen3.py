"""The forward pass of a Qwen3 model over a slab of cached keys and values, in plain torch.

Grouped-query attention with normalised queries and keys, rotary positions, SwiGLU; float32 throughout, so that
logprobs equal those of a `transformers` forward to about 1e-6. Source: transformers, models/qwen3/modeling_qwen3.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everybody knows)
from torch import Tensor

from core.config import read_file, validated
from core.errors import ConfigError, TrainingError
from core.types import JsonObject, Value
from trainer.inference.kv_slab import KVSlab, SlabShape


class Qwen3Config(Value):
    """The shape of a model: what we read of a Hugging Face config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool

    @classmethod
    def read(cls, model_dir: Path) -> "Qwen3Config":
        """The config of a model directory. Raises ConfigError for anything but a plain Qwen3ForCausalLM."""
        path = model_dir / "config.json"
        data = read_file(path)
        found = data.get("architectures")
        if found != ["Qwen3ForCausalLM"]:
            raise ConfigError(f"{path}: architectures is {found}; the local engine decodes ['Qwen3ForCausalLM']")
        rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
        kind = rope.get("rope_type", "default") if isinstance(rope, dict) else rope
        for name, value, wanted in (("rope_type", kind, "default"), ("hidden_act", data.get("hidden_act"), "silu")):
            if value != wanted:
                raise ConfigError(f"{path}: {name} is {value!r}; the local engine knows {wanted!r}")
        for name in ("attention_bias", "use_sliding_window"):
            if data.get(name):
                raise ConfigError(f"{path}: {name} is set; the local engine does not know it")
        return validated(cls, _known_fields(data, rope), str(path))


def _known_fields(data: JsonObject, rope: object) -> JsonObject:
    flat = {**data, **rope} if isinstance(rope, dict) else data
    return {name: flat[name] for name in Qwen3Config.model_fields if name in flat}


@dataclass
class Layer:
    """Weights of one block; q, k, v and gate, up are stored as one matrix each, so that one product serves them."""

    input_norm: Tensor
    qkv: Tensor
    q_norm: Tensor
    k_norm: Tensor
    o: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Feed:
    """Tokens to run, packed without padding: ids, rows and positions (T) of the slab.

    They belong to slab rows [first_row, first_row + count). `padded` (T) says where each goes in a rectangle of
    (count, width) for attention, and is None where it is one token a row. `last` (count) picks each row's last token.
    """

    ids: Tensor
    rows: Tensor
    positions: Tensor
    first_row: int
    count: int
    width: int
    length: int
    padded: Tensor | None
    last: Tensor | None

    @classmethod
    def one_each(cls, tokens: list[int], positions: list[int], device: str) -> "Feed":
        """One token for each of the rows 0, 1, ..."""
        ids, places = torch.tensor([tokens, positions], device=device)
        rows = torch.arange(len(tokens), device=device)
        return cls(ids, rows, places, 0, len(tokens), 1, max(positions) + 1, None, None)

    @classmethod
    def runs(cls, tokens: list[list[int]], starts: list[int], first_row: int, device: str) -> "Feed":
        """A run of tokens for each of the rows from first_row on; run i begins at position starts[i]."""
        width = max(map(len, tokens))
        ids, rows, positions, padded, last = [], [], [], [], []
        for i, (run, start) in enumerate(zip(tokens, starts, strict=True)):
            ids += run
            rows += [first_row + i] * len(run)
            positions += range(start, start + len(run))
            padded += range(i * width, i * width + len(run))
            last.append(len(ids) - 1)
        packed = torch.tensor([ids, rows, positions, padded], device=device)
        picks, length = torch.tensor(last, device=device), max(positions) + 1
        return cls(packed[0], packed[1], packed[2], first_row, len(tokens), width, length, packed[3], picks)

    def bias(self) -> Tensor:
        """What is added to attention scores: 0 where a token may look, -inf elsewhere; (count, 1, width, 1, length)."""
        positions = self.positions
        if self.padded is not None:
            positions = positions.new_zeros(self.count * self.width).index_copy(0, self.padded, positions)
        reach = torch.arange(self.length, device=positions.device)
        hidden = reach > positions.view(self.count, 1, self.width, 1, 1)
        return torch.zeros(hidden.shape, device=positions.device).masked_fill_(hidden, -torch.inf)


class Qwen3:
    """Weights on a device, and their forward pass. Not safe for two threads at once."""

    def __init__(self, config: Qwen3Config, device: str = "cpu") -> None:
        self.config, self.device = config, device
        self.heads = config.num_attention_heads + config.num_key_value_heads
        self.embedding = torch.zeros(config.vocab_size, config.hidden_size, device=device)
        self.head = self.embedding if config.tie_word_embeddings else torch.zeros_like(self.embedding)
        self.norm = torch.zeros(config.hidden_size, device=device)
        self.layers = [self._empty_layer() for _ in range(config.num_hidden_layers)]
        self._places = self._named_places()
        self._cos, self._sin = self._rotations()

    @classmethod
    def load(cls, model_dir: Path, device: str = "cpu") -> "Qwen3":
        """The model of a Hugging Face directory with one model.safetensors. Raises ConfigError, TrainingError."""
        from safetensors.torch import load_file

        model = cls(Qwen3Config.read(model_dir), device)
        path = model_dir / "model.safetensors"
        if not path.is_file():
            raise ConfigError(f"{path}: is missing; a model directory holds config.json and model.safetensors")
        model.assign(load_file(path))
        return model

    @torch.no_grad()
    def assign(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights in under their Hugging Face names. Raises TrainingError before anything is changed."""
        found = set(weights) - ({"lm_head.weight"} if self.config.tie_word_embeddings else set())
        if found != set(self._places):
            missing, unknown = sorted(set(self._places) - found), sorted(found - set(self._places))
            raise TrainingError(f"weights do not fit the model: missing {missing[:3]}, unknown {unknown[:3]}")
        for name, place in self._places.items():
            if weights[name].shape != place.shape:
                raise TrainingError(f"weights {name}: expected shape {tuple(place.shape)}, found {tuple(weights[name].shape)}")
        for name, place in self._places.items():
            place.copy_(weights[name])

    def slab(self, rows: int, max_length: int) -> KVSlab:
        """An empty slab for that many requests of at most `max_length` tokens. Raises ConfigError."""
        config = self.config
        shape = SlabShape(config.num_hidden_layers, rows, config.num_key_value_heads, max_length, config.head_dim)
        return KVSlab(shape, self.device)

    def forward(self, feed: Feed, slab: KVSlab) -> Tensor:
        """Logits after the last token of each row, (count, vocab); keys and values of all tokens go to the slab."""
        slab.reserve(feed.length)
        eps, bias = self.config.rms_norm_eps, feed.bias()
        rotation = self._cos[feed.positions], self._sin[feed.positions]
        x = self.embedding[feed.ids]
        for index, layer in enumerate(self.layers):
            normed = F.rms_norm(x, x.shape[-1:], layer.input_norm, eps)
            q = self._project(normed, layer, feed, rotation, (slab.k[index], slab.v[index]))
            x = x + F.linear(self._attend(q, feed, bias, (slab.k[index], slab.v[index])), layer.o)
            gate, up = F.linear(F.rms_norm(x, x.shape[-1:], layer.post_norm, eps), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        if feed.last is not None:
            x = x[feed.last]
        return F.linear(F.rms_norm(x, x.shape[-1:], self.norm, eps), self.head)

    def _project(
        self, x: Tensor, layer: Layer, feed: Feed, rotation: tuple[Tensor, Tensor], cache: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Queries (T, heads, head_dim), scaled and rotated; keys and values are written to the cache."""
        config, (cos, sin) = self.config, rotation
        qkv = F.linear(x, layer.qkv).view(len(x), -1, config.head_dim)
        split = config.num_attention_heads
        shape = (config.head_dim,)
        q = F.rms_norm(qkv[:, :split], shape, layer.q_norm, config.rms_norm_eps)
        k = F.rms_norm(qkv[:, split : self.heads], shape, layer.k_norm, config.rms_norm_eps)
        qk = torch.cat((q, k), dim=1)
        qk = torch.addcmul(qk * cos, qk.roll(config.head_dim // 2, -1), sin)
        cache[0][feed.rows, :, feed.positions] = qk[:, split:]
        cache[1][feed.rows, :, feed.positions] = qkv[:, self.heads :]
        return qk[:, :split] * config.head_dim**-0.5

    def _attend(self, q: Tensor, feed: Feed, bias: Tensor, cache: tuple[Tensor, Tensor]) -> Tensor:
        """What each token gathers from its row, (T, heads * head_dim). Query heads of a kv head share one product."""
        config, size = self.config, feed.count * feed.width
        groups = (feed.count, feed.width, config.num_key_value_heads, -1, config.head_dim)
        if feed.padded is not None:
            q = q.new_zeros(size, *q.shape[1:]).index_copy(0, feed.padded, q)
        q = q.view(groups).transpose(1, 2).reshape(feed.count * config.num_key_value_heads, -1, config.head_dim)
        k, v = (part[feed.first_row : feed.first_row + feed.count].flatten(0, 1)[:, : feed.length] for part in cache)
        scores = torch.bmm(q, k.transpose(1, 2))
        scores.view(feed.count, config.num_key_value_heads, feed.width, -1, feed.length).add_(bias)
        mixed = torch.bmm(scores.softmax(-1), v)
        mixed = mixed.view(feed.count, config.num_key_value_heads, feed.width, -1).transpose(1, 2).reshape(size, -1)
        return mixed if feed.padded is None else mixed[feed.padded]

    def _empty_layer(self) -> Layer:
        config, device = self.config, self.device
        inner = config.num_attention_heads * config.head_dim
        shapes = {
            "input_norm": (config.hidden_size,),
            "qkv": ((self.heads + config.num_key_value_heads) * config.head_dim, config.hidden_size),
            "q_norm": (config.head_dim,),
            "k_norm": (config.head_dim,),
            "o": (config.hidden_size, inner),
            "post_norm": (config.hidden_size,),
            "gate_up": (2 * config.intermediate_size, config.hidden_size),
            "down": (config.hidden_size, config.intermediate_size),
        }
        return Layer(**{name: torch.zeros(shape, device=device) for name, shape in shapes.items()})

    def _named_places(self) -> dict[str, Tensor]:
        """Hugging Face name -> the part of our tensors that it fills."""
        config = self.config
        places = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.norm}
        if not config.tie_word_embeddings:
            places["lm_head.weight"] = self.head
        kv = config.num_key_value_heads * config.head_dim
        for index, layer in enumerate(self.layers):
            q, k, v = layer.qkv.split([layer.o.shape[1], kv, kv])
            gate, up = layer.gate_up.chunk(2)
            parts = {
                "input_layernorm": layer.input_norm,
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.q_norm": layer.q_norm,
                "self_attn.k_norm": layer.k_norm,
                "self_attn.o_proj": layer.o,
                "post_attention_layernorm": layer.post_norm,
                "mlp.gate_proj": gate,
                "mlp.up_proj": up,
                "mlp.down_proj": layer.down,
            }
            places |= {f"model.layers.{index}.{name}.weight": part for name, part in parts.items()}
        return places

    def _rotations(self) -> tuple[Tensor, Tensor]:
        """cos and sin of every position, (positions, 1, head_dim); sin carries the sign of rotate_half."""
        config = self.config
        powers = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        angles = torch.outer(torch.arange(config.max_position_embeddings).float(), 1.0 / config.rope_theta**powers)
        cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((-angles, angles), -1).sin()
        return cos.unsqueeze(1).to(self.device), sin.unsqueeze(1).to(self.device)
