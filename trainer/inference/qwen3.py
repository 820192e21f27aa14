"""The forward pass of a Qwen3 model over a slab of cached keys and values, in plain torch.

Grouped-query attention with normalised queries and keys, rotary positions, SwiGLU. In float32 logprobs equal those of
a `transformers` forward to about 1e-6. Source: transformers, models/qwen3/modeling_qwen3.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 (the name that everybody knows)
from torch import Tensor

from core.config import read_file, validated
from core.errors import ConfigError, TrainingError
from core.types import JsonObject, Value
from trainer.inference.decoder import Interrupt, Interrupted, never
from trainer.inference.feed import Feed
from trainer.inference.kv_slab import KVSlab, SlabShape, cache_dtype


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
    qk_norm: Tensor
    """q_norm for each head of queries and k_norm for each of keys, so that one product serves them."""
    o: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Qwen3:
    """Weights on a device, and their forward pass. Not safe for two threads at once."""

    def __init__(self, config: Qwen3Config, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.vocab_size, self.max_positions = config.vocab_size, config.max_position_embeddings
        self.heads = config.num_attention_heads + config.num_key_value_heads
        self.embedding = self._zeros(config.vocab_size, config.hidden_size)
        self.head = self.embedding if config.tie_word_embeddings else torch.zeros_like(self.embedding)
        self.norm = self._zeros(config.hidden_size)
        self.layers = [self._empty_layer() for _ in range(config.num_hidden_layers)]
        self._places = self._named_places()
        self._cos, self._sin = self._rotations()

    @classmethod
    def load(cls, model_dir: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """The model of a Hugging Face directory. Raises ConfigError, TrainingError."""
        model = cls(Qwen3Config.read(model_dir), device, dtype)
        model.assign(_stored_weights(model_dir))
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
        for layer in self.layers:
            layer.qk_norm[: self.config.num_attention_heads] = layer.q_norm
            layer.qk_norm[self.config.num_attention_heads :] = layer.k_norm

    def slab(self, rows: int, max_length: int) -> KVSlab:
        """An empty slab for that many requests of at most `max_length` tokens. Raises ConfigError."""
        config = self.config
        shape = SlabShape(config.num_hidden_layers, rows, config.num_key_value_heads, max_length, config.head_dim)
        return KVSlab(shape, self.device, cache_dtype(self.device, self.dtype))

    def forward(self, feed: Feed, slab: KVSlab, interrupt: Interrupt = never) -> Tensor:
        """Logits after the last token of each row, (count, vocab); keys and values of all tokens go to the slab."""
        slab.reserve(feed.length)
        eps, bias = self.config.rms_norm_eps, feed.bias(slab.k.dtype)
        rotation = self._cos[feed.positions], self._sin[feed.positions]
        places = feed.places(slab.k.shape[2], slab.length)
        x = self.embedding[feed.ids]
        for index, layer in enumerate(self.layers):
            if interrupt():
                slab.erase(feed)
                raise Interrupted
            cache = slab.k[index], slab.v[index]
            qkv = F.linear(_normed(x, layer.input_norm, eps), layer.qkv).view(len(x), -1, self.config.head_dim)
            qk = _rotated(_normed(qkv[:, : self.heads], layer.qk_norm, eps), rotation).to(slab.k.dtype)
            q, k = qk.split([self.config.num_attention_heads, self.config.num_key_value_heads], dim=1)
            feed.write(k, qkv[:, self.heads :], cache, places)
            x = x + F.linear(feed.attend(q * self.config.head_dim**-0.5, bias, cache).to(x.dtype), layer.o)
            gate, up = F.linear(_normed(x, layer.post_norm, eps), layer.gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        if feed.last is not None:
            x = x[feed.last]
        return F.linear(_normed(x, self.norm, eps), self.head).float()

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _empty_layer(self) -> Layer:
        config = self.config
        inner = config.num_attention_heads * config.head_dim
        shapes = {
            "input_norm": (config.hidden_size,),
            "qkv": ((self.heads + config.num_key_value_heads) * config.head_dim, config.hidden_size),
            "q_norm": (config.head_dim,),
            "k_norm": (config.head_dim,),
            "qk_norm": (self.heads, config.head_dim),
            "o": (config.hidden_size, inner),
            "post_norm": (config.hidden_size,),
            "gate_up": (2 * config.intermediate_size, config.hidden_size),
            "down": (config.hidden_size, config.intermediate_size),
        }
        return Layer(**{name: self._zeros(*shape) for name, shape in shapes.items()})

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
        return cos.unsqueeze(1).to(self.device, self.dtype), sin.unsqueeze(1).to(self.device, self.dtype)


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divided by its root mean square along the last dimension. As F.rms_norm, which on a CPU is six kernels."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (x * (norm.square() / x.shape[-1] + eps).rsqrt()).to(x.dtype) * weight


def _rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Heads (T, heads, head_dim) turned by their positions."""
    return torch.addcmul(x * rotation[0], x.roll(x.shape[-1] // 2, -1), rotation[1])


def _stored_weights(model_dir: Path) -> dict[str, Tensor]:
    """All weights of a directory, in one file or in several. Raises ConfigError."""
    from safetensors.torch import load_file

    paths = [model_dir / "model.safetensors"]
    index = model_dir / "model.safetensors.index.json"
    if index.is_file():
        parts = read_file(index).get("weight_map")
        paths = [model_dir / name for name in sorted(set(map(str, parts.values())))] if isinstance(parts, dict) else []
    weights: dict[str, Tensor] = {}
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path}: is missing; a model directory holds config.json and model.safetensors")
        weights |= load_file(path)
    return weights
