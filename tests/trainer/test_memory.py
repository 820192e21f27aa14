"""The memory that a run is said to need is that of what it holds."""

from pathlib import Path

import pytest
import torch

from core.config import load_config
from core.errors import ConfigError
from trainer.config import TrainerConfig, make_learner
from trainer.engines.torch_engine import TorchEngine
from trainer.memory import Memory, memory_needed


def needed(model: Path, *settings: str, with_reference: bool = False) -> Memory:
    config = load_config(TrainerConfig, None, [f"model={model}", *settings])
    return memory_needed(config, with_reference=with_reference)


@pytest.mark.parametrize("settings", [[], ["engine.lora.rank=4"]])
def test_parameters_are_counted_as_the_engine_has_them(toy_model: Path, settings: list[str]):
    engine = make_learner(load_config(TrainerConfig, None, [f"model={toy_model}", *settings])).engine
    assert isinstance(engine, TorchEngine)
    said = needed(toy_model, *settings)
    parameters = list(engine._model.parameters())
    assert said.learned == sum(one.numel() for one in parameters if one.requires_grad)
    assert said.parts["weights"] == sum(one.numel() * one.element_size() for one in parameters)
    assert said.parts["optimiser"] == 2 * 4 * said.learned


def test_a_reference_costs_a_model_but_not_with_adapters(toy_model: Path):
    plain = needed(toy_model)
    assert needed(toy_model, with_reference=True).total == plain.total + 4 * plain.parameters
    assert needed(toy_model, "engine.lora.rank=4", with_reference=True).parts["reference"] == 0


def test_checkpointing_and_smaller_micro_batches_save_activations(toy_model: Path):
    plain = needed(toy_model).parts["activations"]
    assert needed(toy_model, "engine.gradient_checkpointing=true").parts["activations"] < plain
    assert needed(toy_model, "engine.micro_batch_tokens=2048").parts["activations"] == plain // 2


def test_processes_divide_the_model_and_offloading_takes_it_off_the_device(toy_model: Path):
    plain, fsdp = needed(toy_model), ("engine.name=fsdp", "engine.processes=4")
    four, host = needed(toy_model, *fsdp), needed(toy_model, *fsdp, "engine.offload=true")
    assert four.parts["optimiser"] == plain.parts["optimiser"] // 4
    assert four.parts["activations"] == plain.parts["activations"]
    assert host.host["optimiser"] == plain.parts["optimiser"]
    assert "optimiser" not in host.parts


def test_nothing_is_loaded(toy_model: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((toy_model / "config.json").read_bytes())
    assert needed(tmp_path).parameters == needed(toy_model).parameters
    assert torch.get_default_device().type == "cpu"


def test_a_missing_model_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere"):
        needed(tmp_path / "nowhere")
