"""The torch engine: exact logprobs, and a gradient that does not know how the batch was cut."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from core.errors import ConfigError, TrainingError
from core.types import Sample
from tests.trainer.toy import VOCABULARY, random_sample, random_samples, write_toy_model
from trainer.algorithms.base import AdamParams, Loss, Predictions
from trainer.algorithms.grpo import GRPO, GRPOConfig
from trainer.batch import Batch, collate
from trainer.engines import scoring
from trainer.engines.torch_engine import Precision, TorchEngine, TorchEngineConfig

TOLERANCE = 1e-5  # float32 sums in another order
SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": VOCABULARY}


def engine(directory: Path, *, with_reference: bool = False, **settings: object) -> TorchEngine:
    return TorchEngine(directory, TorchEngineConfig(**settings), with_reference=with_reference)


def weights_after(directory: Path, batch: Batch, **settings: object) -> dict[str, Tensor]:
    """Weights after one step with plain gradient size: the gradient, seen through the public door."""
    one = engine(directory, **settings)
    one.forward_backward(batch, GRPO().loss)
    # a huge eps makes Adam's step proportional to the gradient
    one.optim_step(AdamParams(lr=1e4, eps=1e4, grad_clip=0.0))
    return one.state_dict()


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=TOLERANCE, rtol=TOLERANCE, msg=name)


def plain_logprobs(directory: Path, samples: Sequence[Sample], temperature: float = 1.0) -> list[list[float]]:
    """Logprobs of completion tokens, a row at a time, from the model's own logits in float64."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    rows = []
    for sample in samples:
        ids = torch.tensor([sample.token_ids])
        with torch.no_grad():
            log_p = torch.log_softmax(model(ids).logits[0] / temperature, dim=-1)
        rows.append([log_p[at - 1, sample.token_ids[at]].item() for at, on in enumerate(sample.loss_mask) if on])
    return rows


def engine_logprobs(one: TorchEngine, samples: Sequence[Sample]) -> list[list[float]]:
    batch = collate(samples)
    return [row[mask].tolist() for row, mask in zip(one.logprobs(batch), batch.loss_mask, strict=True)]


def assert_near(ours: list[list[float]], theirs: list[list[float]], tolerance: float = TOLERANCE) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=tolerance)


def test_logprobs_are_the_models(toy_model: Path):
    assert_near(engine_logprobs(engine(toy_model), random_samples()), plain_logprobs(toy_model, random_samples()))


def test_logprobs_are_of_the_distribution_that_was_sampled_from(toy_model: Path):
    ours = engine_logprobs(engine(toy_model, temperature=0.7), random_samples())
    assert_near(ours, plain_logprobs(toy_model, random_samples(), temperature=0.7))


def test_bfloat16_is_near_float32(toy_model: Path):
    ours = engine_logprobs(engine(toy_model, precision=Precision.BFLOAT16), random_samples())
    assert_near(ours, plain_logprobs(toy_model, random_samples()), tolerance=0.2)  # 8 bits of mantissa, logits of up to 10


FAMILIES: list[PreTrainedModel] = [
    LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False)),
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=VOCABULARY, n_positions=64)),
    # caps its logits, so that the output matrix alone is not the head
    Gemma2ForCausalLM(Gemma2Config(**SHAPE, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.1)),
]


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: type(model).__name__)
def test_other_families_give_their_own_logprobs(model: PreTrainedModel, tmp_path: Path):
    model.save_pretrained(tmp_path)
    ours = engine_logprobs(engine(tmp_path, attention="eager"), random_samples())
    assert_near(ours, plain_logprobs(tmp_path, random_samples()))


def test_learning_does_not_depend_on_micro_batches(toy_model: Path):
    batch = collate(random_samples())
    whole = weights_after(toy_model, batch, micro_batch_tokens=10_000)
    assert_same(weights_after(toy_model, batch, micro_batch_tokens=1), whole)


def test_learning_does_not_depend_on_order(toy_model: Path):
    forward = weights_after(toy_model, collate(random_samples()), micro_batch_tokens=40)
    backward = weights_after(toy_model, collate(random_samples()[::-1]), micro_batch_tokens=40)
    assert_same(backward, forward)


def test_learning_does_not_depend_on_padding(toy_model: Path):
    batch = collate(random_samples())
    wide = Batch(
        token_ids=torch.nn.functional.pad(batch.token_ids, (0, 9), value=5),
        loss_mask=torch.nn.functional.pad(batch.loss_mask, (0, 9)),
        logprobs=torch.nn.functional.pad(batch.logprobs, (0, 9)),
        advantages=torch.nn.functional.pad(batch.advantages, (0, 9)),
        old_logprobs=torch.nn.functional.pad(batch.old_logprobs, (0, 9)),
        weights=torch.nn.functional.pad(batch.weights, (0, 9)),
        lengths=batch.lengths + 9,
    )
    assert_same(weights_after(toy_model, wide), weights_after(toy_model, batch))


def test_learning_does_not_depend_on_how_logits_are_chunked(toy_model: Path, monkeypatch: pytest.MonkeyPatch):
    whole = weights_after(toy_model, collate(random_samples()))
    monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", 3 * VOCABULARY)
    assert_same(weights_after(toy_model, collate(random_samples())), whole)


def test_rows_without_an_advantage_change_nothing_but_the_divisor(toy_model: Path):
    batch = collate([*random_samples(), random_sample(99, 11, 0.0)])
    ours = engine(toy_model)
    kept = ours.forward_backward(batch.with_signal(), GRPO().loss, tokens=batch.tokens)
    ours.optim_step(AdamParams(lr=1e4, eps=1e4, grad_clip=0.0))
    assert kept.tokens < batch.tokens
    assert_same(ours.state_dict(), weights_after(toy_model, batch))


def test_the_gradient_is_the_slope_of_the_loss(toy_model: Path):
    batch, step = collate(random_samples()), 1e-3
    one = engine(toy_model)
    one.forward_backward(batch, GRPO().loss)
    parameter = dict(one._model.named_parameters())["model.layers.0.mlp.up_proj.weight"]
    assert parameter.grad is not None
    expected = parameter.grad[0, 0].item()
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter[0, 0] += sign * step
        losses.append(one.forward_backward(batch, GRPO().loss).loss)
        with torch.no_grad():
            parameter[0, 0] -= sign * step
    slope = (losses[0] - losses[1]) / (2 * step)
    assert expected == pytest.approx(slope, rel=0.05, abs=2e-4)  # float32 differences of a loss near one


def test_means_are_per_completion_token(toy_model: Path):
    batch, algorithm = collate(random_samples()), GRPO()
    measured = engine(toy_model, micro_batch_tokens=25).forward_backward(batch, algorithm.loss)
    distance = (engine(toy_model).logprobs(batch) - batch.logprobs).abs()[batch.loss_mask]
    assert measured.means["dlogp"] == pytest.approx(distance.mean().item(), abs=TOLERANCE)
    assert measured.maxima["dlogp"] == pytest.approx(distance.max().item(), abs=TOLERANCE)


def test_the_reference_stays_where_training_began(toy_model: Path):
    batch, seen = collate(random_samples()), []
    algorithm = GRPO(GRPOConfig(kl=0.1))

    def watched(predictions: Predictions, part: Batch, tokens: int) -> Loss:
        seen.append(predictions.reference)
        return algorithm.loss(predictions, part, tokens)

    one = engine(toy_model, with_reference=True, micro_batch_tokens=10_000)
    for _ in range(2):
        one.forward_backward(batch, watched)
        one.optim_step(AdamParams(lr=0.1))
    torch.testing.assert_close(seen[1], seen[0])


def test_the_gradient_is_clipped_to_its_limit(toy_model: Path):
    batch, moved = collate(random_samples()), []
    for limit in (0.0, 1e-3):
        one = engine(toy_model)
        before = one.state_dict()
        one.forward_backward(batch, GRPO().loss)
        norm = one.optim_step(AdamParams(lr=1e6, eps=1e6, grad_clip=limit))
        squares = [((value - before[name]) ** 2).sum() for name, value in one.state_dict().items() if name != "lm_head.weight"]
        moved.append(torch.stack(squares).sum().sqrt().item())
    assert moved[1] / moved[0] == pytest.approx(1e-3 / norm, rel=0.02)  # the step size rounds


def test_a_loss_that_is_not_finite_changes_nothing(toy_model: Path):
    batch = collate(random_samples())
    one = engine(toy_model)
    before = one.state_dict()
    with pytest.raises(TrainingError, match="loss is nan"):
        one.forward_backward(replace(batch, advantages=batch.advantages * torch.nan), GRPO().loss)
    one.optim_step(AdamParams(lr=1.0))
    assert_same(one.state_dict(), before)


def test_a_token_that_the_model_does_not_have_is_refused(toy_model: Path):
    batch = collate(random_samples())
    with pytest.raises(TrainingError, match=f"token id 99 is beyond the model's {VOCABULARY} tokens"):
        engine(toy_model).logprobs(replace(batch, token_ids=batch.token_ids + _spike(batch)))


def _spike(batch: Batch) -> Tensor:
    spike = torch.zeros_like(batch.token_ids)
    spike[0, 0] = 99 - int(batch.token_ids[0, 0])
    return spike


def test_published_weights_do_not_change_under_their_reader(toy_model: Path):
    one = engine(toy_model)
    published = one.state_dict()
    before = {name: value.clone() for name, value in published.items()}
    one.forward_backward(collate(random_samples()), GRPO().loss)
    one.optim_step(AdamParams(lr=0.1))
    assert_same(published, before)


def test_a_missing_model_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere: no config\.json there"):
        engine(tmp_path / "nowhere")


@pytest.mark.parametrize("device", ["kuda", "xla:7"])
def test_a_device_that_is_not_here_is_named(toy_model: Path, device: str):
    with pytest.raises(ConfigError, match=rf"engine\.device '{device}' cannot be used: "):
        engine(toy_model, device=device)


def test_a_checkpoint_of_another_model_is_refused(toy_model: Path, tmp_path: Path):
    engine(toy_model).save(tmp_path)
    other = write_toy_model(tmp_path / "deep", num_hidden_layers=3)
    with pytest.raises(ConfigError, match="weights of another model: missing"):
        engine(other).load(tmp_path)


def test_a_checkpoint_of_a_wider_model_is_refused(toy_model: Path, tmp_path: Path):
    engine(toy_model).save(tmp_path)
    other = write_toy_model(tmp_path / "wide", intermediate_size=96)
    with pytest.raises(ConfigError, match=r"weights of another model: .*mlp.* has the shape"):
        engine(other).load(tmp_path)
