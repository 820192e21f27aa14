"""How much memory a training run needs, from the shape of its model; nothing is loaded.

Activations: Korthikanti et al. 2022, arXiv 2205.05198, 34 bytes per token, hidden unit and layer in 16 bits, without the
attention matrix, which fused attention never holds.
"""

from typing import NamedTuple

from core.errors import TrainingError
from trainer.config import TrainerConfig
from trainer.engines.fsdp_engine import FsdpEngineConfig
from trainer.engines.torch_engine import Precision, TorchEngineConfig
from trainer.model_folder import reading

FLOAT32 = 4
ADAM_MOMENTS = 2
ACTIVATION_BYTES = {Precision.BFLOAT16: 34, Precision.FLOAT32: 68}
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


def memory_needed(config: TrainerConfig, *, with_reference: bool, samples_here: bool = True) -> Memory:
    """What the trainer will hold at its fullest; `samples_here` where it also serves the policy.

    Raises ConfigError for a model that cannot be read, TrainingError for an engine that it cannot judge.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trainer.engines.lora import add_adapters
    from trainer.engines.scoring import LOGITS_PER_CHUNK

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
    kept = ACTIVATION_BYTES[engine.precision] * (1 if engine.gradient_checkpointing else text.num_hidden_layers)
    if engine.gradient_checkpointing:
        kept += FLOAT32 * text.num_hidden_layers  # the input of each layer stays, one layer at a time is whole
    chunk = min(LOGITS_PER_CHUNK, engine.micro_batch_tokens * text.vocab_size)
    twin = with_reference and engine.lora is None
    divided = {
        "weights": FLOAT32 * (parameters + (learned if engine.lora is not None else 0)),
        "gradients": FLOAT32 * learned,
        "optimiser": FLOAT32 * ADAM_MOMENTS * learned,
        "reference": FLOAT32 * parameters if twin else 0,
    }
    whole = {
        "activations": engine.micro_batch_tokens * text.hidden_size * kept,
        "logits": FLOAT32 * CHUNK_COPIES * chunk,
        "copy for the sampler": FLOAT32 * parameters if samples_here else 0,
    }
    processes = (engine.processes or 1) if isinstance(engine, FsdpEngineConfig) else 1
    if isinstance(engine, FsdpEngineConfig) and engine.offload:
        # of the model, two layers are on the device: the one that is computed and the one that comes
        layer = FLOAT32 * parameters // max(text.num_hidden_layers, 1)
        return Memory(parameters, learned, processes, {"two layers": 2 * layer, **whole}, divided)
    parts = {name: -(-size // processes) for name, size in divided.items()}
    return Memory(parameters, learned, processes, {**parts, **whole}, {})
