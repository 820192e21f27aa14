"""The memory that a run is said to need is that of what it holds."""

from pathlib import Path

import pytest
import torch

from core.config import load_config
from core.errors import ConfigError
from tests.trainer.toy import VOCABULARY, write_toy_model
from trainer.config import TrainerConfig, make_learner
from trainer.engines.torch_engine import Precision, TorchEngine
from trainer.inference.kv_slab import KVSlab, SlabShape
from trainer.inference.local_engine import LocalEngineConfig
from trainer.memory import Memory, memory_needed
from trainer.weights import WeightFormat


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


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", list(Precision))
def test_activations_are_what_a_forward_pass_keeps(tmp_path: Path, precision: Precision, checkpointing: bool):
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    said, kept = list[int](), list[int]()
    for layers in (2, 6):  # the difference is that of four layers, without what is outside of them
        model = write_toy_model(tmp_path / f"{layers}", num_hidden_layers=layers, **shape)
        settings = [f"engine.precision={precision.value}", f"engine.gradient_checkpointing={str(checkpointing).lower()}"]
        config = load_config(TrainerConfig, None, [f"model={model}", "engine.micro_batch_tokens=2048", *settings])
        said.append(memory_needed(config, with_reference=False).parts["activations"])
        kept.append(kept_bytes(config))
    assert (said[1] - said[0]) / (kept[1] - kept[0]) == pytest.approx(1.0, rel=0.25)  # rough: it is a plan


def kept_bytes(config: TrainerConfig) -> int:
    """What a forward pass over 2048 tokens keeps for its gradient, weights aside."""
    engine = make_learner(config).engine
    assert isinstance(engine, TorchEngine)
    ids = torch.randint(VOCABULARY, (32, 64), generator=torch.Generator().manual_seed(0))
    weights = {one.untyped_storage().data_ptr() for one in engine._model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        engine._scorer(ids, torch.ones_like(ids, dtype=torch.bool))
    return sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in weights)


def test_the_sampler_holds_keys_and_values_of_as_many_and_long_requests_as_it_takes(toy_model: Path):
    config = load_config(TrainerConfig, None, [f"model={toy_model}"])
    sampler = LocalEngineConfig(max_batch=3, max_length=50, cache_tokens=10, dtype=WeightFormat.BFLOAT16, device="cuda")
    parts = memory_needed(config, with_reference=False, sampler=sampler).parts
    slab = KVSlab(SlabShape(layers=2, rows=3, kv_heads=1, length=50, head_dim=8), dtype=torch.bfloat16, paged=False)
    assert parts["keys and values"] == slab.k.nbytes + slab.v.nbytes + 10 * 2 * 2 * 8 * 2
    assert parts["copy for the sampler"] == parts["weights"] // 2


def test_nothing_is_loaded(toy_model: Path, tmp_path: Path):
    (tmp_path / "config.json").write_bytes((toy_model / "config.json").read_bytes())
    assert needed(tmp_path).parameters == needed(toy_model).parameters
    assert torch.get_default_device().type == "cpu"


def test_a_missing_model_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere"):
        needed(tmp_path / "nowhere")
