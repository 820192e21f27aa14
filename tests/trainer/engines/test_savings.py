"""What saves memory changes nothing, or as little as it says: adapters, checkpointing, halved micro-batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.errors import TrainingError
from tests.trainer.toy import random_samples
from trainer.algorithms.base import AdamParams, Loss, Predictions
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.batch import Batch, collate
from trainer.engines.lora import LoraSettings
from trainer.engines.out_of_memory import enough_memory
from trainer.engines.torch_engine import TorchEngine, TorchEngineConfig

FLOAT32 = 1e-5
LORA = LoraSettings(rank=4, alpha=8)


def one_step(engine: TorchEngine, lr: float = 0.01) -> float:
    loss = engine.forward_backward(collate(random_samples()), GRPO().loss).loss
    engine.optim_step(AdamParams(lr=lr))
    return loss


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = FLOAT32) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=tolerance, rtol=tolerance, msg=name)


def test_recomputed_activations_give_the_same_step(toy_model: Path):
    engines = [TorchEngine(toy_model, TorchEngineConfig(gradient_checkpointing=on)) for on in (False, True)]
    losses = [one_step(engine) for engine in engines]
    assert losses[0] == pytest.approx(losses[1], abs=FLOAT32)
    assert_same(engines[0].state_dict(), engines[1].state_dict())


def test_fresh_adapters_say_nothing_and_then_learn(toy_model: Path):
    whole, adapted = TorchEngine(toy_model, TorchEngineConfig()), TorchEngine(toy_model, TorchEngineConfig(lora=LORA))
    assert_same(adapted.state_dict(), whole.state_dict())
    losses = [one_step(adapted, lr=0.05) for _ in range(8)]
    assert losses[-1] < losses[0]
    changed = {name for name, value in adapted.state_dict().items() if not torch.equal(value, whole.state_dict()[name])}
    assert changed
    assert all("_proj" in name for name in changed)


def test_merged_adapters_are_the_model_that_was_trained(toy_model: Path, tmp_path: Path):
    adapted, batch = TorchEngine(toy_model, TorchEngineConfig(lora=LORA)), collate(random_samples())
    one_step(adapted, lr=0.05)
    adapted.save(tmp_path)
    merged = TorchEngine(tmp_path / "model", TorchEngineConfig())
    torch.testing.assert_close(merged.logprobs(batch), adapted.logprobs(batch), atol=1e-4, rtol=1e-4)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() > 0


def test_adapters_resume_to_the_last_bit(toy_model: Path, tmp_path: Path):
    original = TorchEngine(toy_model, TorchEngineConfig(lora=LORA))
    one_step(original)
    original.save(tmp_path)
    restored = TorchEngine(toy_model, TorchEngineConfig(lora=LORA))
    restored.load(tmp_path)
    assert [one_step(restored) for _ in range(3)] == [one_step(original) for _ in range(3)]
    assert all(torch.equal(value, restored.state_dict()[name]) for name, value in original.state_dict().items())


def test_the_reference_of_adapters_is_the_model_without_them(toy_model: Path):
    adapted = TorchEngine(toy_model, TorchEngineConfig(lora=LORA, micro_batch_tokens=10_000), with_reference=True)
    one_step(adapted, lr=0.05)
    algorithm, seen = GRPO(GRPOConfig(kl=0.1)), []

    def watched(predictions: Predictions, part: Batch, tokens: int) -> Loss:
        seen.append((part.token_ids.tolist(), predictions.reference))
        return algorithm.loss(predictions, part, tokens)

    batch = collate(random_samples())
    adapted.forward_backward(batch, watched)
    start = TorchEngine(toy_model, TorchEngineConfig()).logprobs(batch)
    order = [batch.token_ids.tolist().index(row) for row in seen[0][0]]
    torch.testing.assert_close(seen[0][1], start[order], atol=FLOAT32, rtol=FLOAT32)


def test_an_unknown_target_of_adapters_is_named(toy_model: Path):
    with pytest.raises(TrainingError, match="no_such_matrix"):
        TorchEngine(toy_model, TorchEngineConfig(lora=LoraSettings(targets=("no_such_matrix",))))


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def on_the_cpu() -> None:
    torch.empty(1 << 50, dtype=torch.uint8)  # more than an address can name


def crowded(most: int, run_out: Callable[[], None] = on_a_gpu):
    """A loss for which there is memory for so many completion tokens at once."""

    def loss(predictions: Predictions, part: Batch, tokens: int) -> Loss:
        if part.tokens > most:
            run_out()
        return GRPO().loss(predictions, part, tokens)

    return loss


@pytest.mark.parametrize("run_out", [on_a_gpu, on_the_cpu])
def test_memory_that_runs_out_halves_the_micro_batch_and_loses_nothing(toy_model: Path, run_out: Callable[[], None]):
    batch = collate(random_samples())
    plain, tight = (TorchEngine(toy_model, TorchEngineConfig(micro_batch_tokens=80)) for _ in range(2))
    expected, measured = plain.forward_backward(batch, GRPO().loss), tight.forward_backward(batch, crowded(30, run_out))
    assert measured.loss == pytest.approx(expected.loss, abs=FLOAT32)
    norms = [one.optim_step(AdamParams(lr=0.01)) for one in (plain, tight)]
    assert norms[0] == pytest.approx(norms[1], abs=FLOAT32)
    assert_same(tight.state_dict(), plain.state_dict(), tolerance=1e-4)  # Adam divides what is near zero


@pytest.mark.parametrize("settings", [{"halve_when_out_of_memory": False}, {}])
def test_memory_that_cannot_be_saved_names_the_settings(toy_model: Path, settings: dict[str, bool]):
    engine = TorchEngine(toy_model, TorchEngineConfig(micro_batch_tokens=80, **settings))
    with pytest.raises(TrainingError, match=r"lower engine\.micro_batch_tokens"):
        engine.forward_backward(collate(random_samples()), crowded(most=0))


def test_memory_that_lacks_for_a_step_is_told_too():
    told = pytest.raises(TrainingError, match=r"out of memory in an optimiser step: set engine\.lora")
    with told, enough_memory("in an optimiser step", "set engine.lora"):
        on_the_cpu()


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("in a step", "set engine.lora"):
        raise RuntimeError("the shapes differ")
