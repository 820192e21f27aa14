"""The planted induction head copies, before anything was learnt, and nothing else is decided."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from trainer.copying import plant_copying

VOCABULARY, LENGTH = 500, 40


@pytest.fixture(scope="module")
def losses() -> dict[bool, tuple[float, float]]:
    """Planted or not -> mean loss of random tokens said for the first and for the second time, in nats."""
    torch.manual_seed(3)
    once = torch.randint(0, VOCABULARY, (8, LENGTH))
    twice = torch.cat([once, once], 1)
    found: dict[bool, tuple[float, float]] = {}
    for planted in (False, True):
        model = _model()
        if planted:
            plant_copying(model, seed=1)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(input_ids=twice).logits[:, :-1], -1)
        wanted = -logprobs.gather(-1, twice[:, 1:, None])[..., 0]
        found[planted] = float(wanted[:, : LENGTH - 2].mean()), float(wanted[:, LENGTH + 1 :].mean())
    return found


def _model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=576,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def test_what_was_said_before_is_likelier_the_second_time(losses):
    first, second = losses[True]
    assert second < first - 0.5


def test_random_weights_alone_do_not_copy(losses):
    first, second = losses[False]
    assert second == pytest.approx(first, abs=0.1)


def test_planting_says_nothing_of_what_was_never_said(losses):
    assert losses[True][0] == pytest.approx(losses[False][0], abs=0.1)
