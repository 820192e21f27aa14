"""How much memory a training run needs, from the shape of its model; nothing is loaded.

What is kept of a layer for its gradient was counted on Qwen3 (tests/trainer/test_memory.py counts again): norms in
float32, and four tensors of the width of the MLP. Fused attention never holds the attention matrix.
"""

from typing import TYPE_CHECKING, NamedTuple

from core.errors import TrainingError
from trainer.config import TrainerConfig
from trainer.engines.fsdp_engine import FsdpEngineConfig
from trainer.engines.torch_engine import Precision, TorchEngineConfig
from trainer.inference.kv_slab import cache_dtype
from trainer.inference.local_engine import LocalEngineConfig
from trainer.model_folder import reading
from trainer.weights import TORCH_TYPES

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FLOAT32 = 4
ADAM_MOMENTS = 2
HIDDEN_BYTES = 58
"""A token, hidden unit and layer, in either precision: in 16 bits there are casts between the two."""
MLP_BYTES = {Precision.BFLOAT16: 8, Precision.FLOAT32: 16}
"""A token, MLP unit and layer: gate, its activation, the other half, their product."""
CHUNK_COPIES = 3
"""Logits, their logarithms and a gradient, each as large as the largest chunk."""


class Memory(NamedTuple):
    """Bytes by what they are for, and what was counted. Of one process, where several divide the model."""

    parameters: int
    learned: int
    processes: int
    parts: dict[str, int]
    """Where the model is computed."""
    host: dict[str, int]
    """In the host's memory, where that is another one."""

    @property
    def total(self) -> int:
        """Bytes where the model is computed."""
        return sum(self.parts.values())

    @property
    def host_total(self) -> int:
        """Bytes of the host's memory, of all processes together."""
        return sum(self.host.values())


def memory_needed(config: TrainerConfig, *, with_reference: bool, sampler: LocalEngineConfig | None = None) -> Memory:
    """What the trainer will hold at its fullest; with a `sampler` where it also serves the policy.

    Raises ConfigError for a model that cannot be read, TrainingError for an engine that it cannot judge.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainer.engines.lora import add_adapters

    engine = config.engine
    if not isinstance(engine, TorchEngineConfig):
        raise TrainingError(f"the memory of the engine {engine.name!r} is not known")
    with reading(config.model), torch.device("meta"):
        shape = AutoConfig.from_pretrained(config.model, local_files_only=True)
        model = AutoModelForCausalLM.from_config(shape)
        parameters = sum(one.numel() for one in model.parameters())
        if engine.lora is not None:
            add_adapters(model, engine.lora)
    learned = sum(one.numel() for one in model.parameters() if one.requires_grad)
    text = shape.get_text_config()
    twin = with_reference and engine.lora is None
    divided = {
        "weights": FLOAT32 * (parameters + (learned if engine.lora is not None else 0)),
        "gradients": FLOAT32 * learned,
        "optimiser": FLOAT32 * ADAM_MOMENTS * learned,
        "reference": FLOAT32 * parameters if twin else 0,
    }
    passing = _pass(engine, text)
    whole = {**passing, **_sampling(sampler, text, parameters)}
    if sampler is not None and engine.lora is not None:
        # while weights are merged and handed over nothing is passed through the model
        whole["merged weights"] = max(0, FLOAT32 * parameters - sum(passing.values()))
    processes = (engine.processes or 1) if isinstance(engine, FsdpEngineConfig) else 1
    if isinstance(engine, FsdpEngineConfig) and engine.offload:
        # of the model, two layers are on the device: the one that is computed and the one that comes
        layer = FLOAT32 * parameters // max(text.num_hidden_layers, 1)
        return Memory(parameters, learned, processes, {"two layers": 2 * layer, **whole}, divided)
    parts = {name: -(-size // processes) for name, size in divided.items()}
    return Memory(parameters, learned, processes, {**parts, **whole}, {})


def _pass(engine: TorchEngineConfig, text: "PretrainedConfig") -> dict[str, int]:
    """Of one micro-batch, forward and backward."""
    from trainer.engines.scoring import LOGITS_PER_CHUNK

    hidden, tokens = text.hidden_size, engine.micro_batch_tokens
    width = getattr(text, "intermediate_size", None) or 4 * hidden
    kept = HIDDEN_BYTES * hidden + MLP_BYTES[engine.precision] * width
    if engine.gradient_checkpointing:
        kept += FLOAT32 * hidden * text.num_hidden_layers  # the input of each layer stays, one layer at a time is whole
    else:
        kept *= text.num_hidden_layers
    chunk = min(LOGITS_PER_CHUNK, tokens * text.vocab_size)
    return {"activations": tokens * kept, "logits": FLOAT32 * CHUNK_COPIES * chunk}


def _sampling(sampler: LocalEngineConfig | None, text: "PretrainedConfig", parameters: int) -> dict[str, int]:
    """The sampler's own weights, and keys and values of as many and as long requests as it takes."""
    if sampler is None:
        return {}
    kind = TORCH_TYPES[sampler.dtype]
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * heads * head_dim * cache_dtype(sampler.device, kind).itemsize
    length = min(sampler.max_length, getattr(text, "max_position_embeddings", None) or sampler.max_length)
    return {
        "copy for the sampler": kind.itemsize * parameters,
        "keys and values": token * (sampler.max_batch * length + sampler.cache_tokens),
    }
