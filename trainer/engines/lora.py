"""Low-rank adapters: a few million numbers learn, the model under them stays. Needs the extra natgym[lora].

Source: LoRA, arXiv 2106.09685.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from core.config import Config
from core.errors import MissingRuntime, TrainingError, boundary

ADAPTER = "default"


class LoraSettings(Config):
    """Which matrices learn, and through how narrow a neck."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, gt=0, description="the adapter's output is scaled by alpha / rank")
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_adapters(model: PreTrainedModel, settings: LoraSettings, seed: int = 0) -> None:
    """Freeze the model and put adapters, which say nothing yet, beside its target matrices, in place.

    Raises MissingRuntime without peft, TrainingError when the model has none of the targets.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise MissingRuntime("LoRA needs peft: pip install 'natgym[lora]'") from error
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.targets), lora_dropout=0.0)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), boundary(TrainingError, "LoRA"):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


@contextmanager
def without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """The model as it was before them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def adapter_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The numbers of the adapters, by name."""
    return {name: value for name, value in model.state_dict().items() if "lora_" in name}


@torch.no_grad()
def merged_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of the model under its own names, the adapters added into their matrices."""
    from peft.tuners.lora import LoraLayer

    merged: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if "lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = model.get_submodule(name.removesuffix(".base_layer.weight"))
            assert isinstance(layer, LoraLayer)
            value = value + layer.get_delta_weight(ADAPTER).to(value.dtype)  # pyright: ignore
        merged[name.replace(".base_layer.", ".")] = value
    return merged


def save_adapter(model: PreTrainedModel, settings: LoraSettings, base: Path, directory: Path) -> None:
    """Write the adapter of a model, not the model, under the names by which peft, vLLM and SGLang look for it."""
    from peft import LoraConfig, TaskType

    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=str(base),
        inference_mode=True,
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.targets),
    )
    config.save_pretrained(str(directory))
    tensors = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value.detach().cpu().contiguous()
        for name, value in adapter_state(model).items()
    }
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
