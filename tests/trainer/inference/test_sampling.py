"""Tokens come out as often as they are likely, and their logprobs are those of what they were drawn from."""

from math import exp

import pytest
import torch

from trainer.inference.base import SamplingParams
from trainer.inference.sampling import draw

PROBABILITIES = torch.tensor([0.5, 0.0, 0.2, 0.2, 0.1])
GRID = [(index + 0.5) / 1000 for index in range(1000)]  # each token's share of it is its probability


def shares(params: SamplingParams) -> list[float]:
    """How often each token is drawn."""
    tokens, _ = draw(PROBABILITIES.log().expand(len(GRID), -1), [params] * len(GRID), GRID)
    return [tokens.count(token) / len(GRID) for token in range(len(PROBABILITIES))]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(), [0.5, 0, 0.2, 0.2, 0.1]),
        (SamplingParams(temperature=0.5), [0.25 / 0.34, 0, 0.04 / 0.34, 0.04 / 0.34, 0.01 / 0.34]),
        (SamplingParams(temperature=0), [1, 0, 0, 0, 0]),
        (SamplingParams(temperature=1e-300), [1, 0, 0, 0, 0]),
        (SamplingParams(temperature=1e-3), [1, 0, 0, 0, 0]),
        (SamplingParams(top_k=1 << 30), [0.5, 0, 0.2, 0.2, 0.1]),
        (SamplingParams(top_k=2), [0.5 / 0.7, 0, 0.2 / 0.7, 0, 0]),
        (SamplingParams(top_p=0.6), [0.5 / 0.7, 0, 0.2 / 0.7, 0, 0]),
        (SamplingParams(top_p=0.01), [1, 0, 0, 0, 0]),
        (SamplingParams(top_k=3, top_p=0.7), [0.5 / 0.7, 0, 0.2 / 0.7, 0, 0]),
        (SamplingParams(min_p=0.3), [0.5 / 0.9, 0, 0.2 / 0.9, 0.2 / 0.9, 0]),
        (SamplingParams(min_p=1.0), [1, 0, 0, 0, 0]),
        (SamplingParams(min_p=0.3, temperature=0.5), [1, 0, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(params: SamplingParams, expected: list[float]):
    assert shares(params) == pytest.approx(expected, abs=2e-3)  # one step of the grid at each border


@pytest.mark.parametrize("params", [SamplingParams(top_k=2), SamplingParams(top_p=0.6), SamplingParams(min_p=0.3)])
def test_the_logprob_is_that_of_the_distribution_drawn_from(params: SamplingParams):
    (token,), (logprob,) = draw(PROBABILITIES.log().unsqueeze(0), [params], [0.9])
    assert exp(logprob) == pytest.approx(shares(params)[token], abs=2e-3)


def test_a_token_without_probability_is_not_drawn_at_the_border():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert draw(logits, [SamplingParams()], [1.0 - 2**-53])[0] == [1]


def test_rows_of_one_batch_keep_their_own_settings():
    logits = PROBABILITIES.log().expand(3, -1)
    params = [SamplingParams(temperature=0), SamplingParams(top_k=1), SamplingParams()]
    assert draw(logits, params, [0.99] * 3)[0] == [0, 0, 4]
