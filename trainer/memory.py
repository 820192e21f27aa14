"""How much memory a training run needs, from the shape of its model; nothing is loaded.

Activations: Korthikanti et al. 2022, arXiv 2205.05198, 34 bytes per token, hidden unit and layer in 16 bits, without the
attention matrix, which fused attention never holds.
"""

from typing import NamedTuple

from core.errors import TrainingError, boundary
from trainer.config import TrainerConfig
from trainer.engines.torch_engine import Precision, TorchEngineConfig

FLOAT32 = 4
ADAM_MOMENTS = 2
ACTIVATION_BYTES = {Precision.BFLOAT16: 34, Precision.FLOAT32: 68}
CHUNK_COPIES = 3
"""Logits, their logarithms and a gradient, each as large as the largest chunk."""


class Memory(NamedTuple):
    """Bytes by what they are for, and what was counted."""

    parameters: int
    learned: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of one process that holds all of it."""
        return sum(self.parts.values())


def memory_needed(config: TrainerConfig, *, with_reference: bool) -> Memory:
    """What the trainer will hold at its fullest. Raises TrainingError for a model or an engine that it cannot judge."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainer.engines.lora import add_adapters
    from trainer.engines.scoring import LOGITS_PER_CHUNK

    engine = config.engine
    if not isinstance(engine, TorchEngineConfig):
        raise TrainingError(f"the memory of the engine {engine.name!r} is not known")
    with boundary(TrainingError, f"model {config.model}"), torch.device("meta"):
        shape = AutoConfig.from_pretrained(config.model, local_files_only=True)
        model = AutoModelForCausalLM.from_config(shape)
        parameters = sum(one.numel() for one in model.parameters())
        if engine.lora is not None:
            add_adapters(model, engine.lora)
    learned = sum(one.numel() for one in model.parameters() if one.requires_grad)
    text = shape.get_text_config()
    kept = ACTIVATION_BYTES[engine.precision] * (1 if engine.gradient_checkpointing else text.num_hidden_layers)
    if engine.gradient_checkpointing:
        kept += FLOAT32 * text.num_hidden_layers  # the input of each layer stays, one layer at a time is whole
    chunk = min(LOGITS_PER_CHUNK, engine.micro_batch_tokens * text.vocab_size)
    twin = with_reference and engine.lora is None
    parts = {
        "weights": FLOAT32 * (parameters + (learned if engine.lora is not None else 0)),
        "gradients": FLOAT32 * learned,
        "optimiser": FLOAT32 * ADAM_MOMENTS * learned,
        "reference": FLOAT32 * parameters if twin else 0,
        "activations": engine.micro_batch_tokens * text.hidden_size * kept,
        "logits": FLOAT32 * CHUNK_COPIES * chunk,
        "copy for the sampler": FLOAT32 * parameters,
    }
    return Memory(parameters, learned, parts)
