"""Padding, micro-batches and rows with a signal."""

import pytest
import torch

from tests.trainer.toy import random_sample, random_samples
from trainer.batch import collate


def test_a_row_is_padded_on_the_right():
    batch = collate([random_sample(0, 3, 1.0), random_sample(1, 5, 1.0)])
    assert batch.token_ids.shape == (2, 5)
    assert batch.lengths.tolist() == [3, 5]
    assert not batch.loss_mask[0, 3:].any()


@pytest.mark.parametrize("budget", [1, 20, 45, 1000])
def test_micro_batches_hold_every_row_once(budget: int):
    batch = collate(random_samples())
    parts = list(batch.micro_batches(budget))
    rows = sorted(ids[:length].tolist() for part in parts for ids, length in zip(part.token_ids, part.lengths, strict=True))
    assert rows == sorted(list(sample.token_ids) for sample in random_samples())


@pytest.mark.parametrize("budget", [30, 45, 1000])
def test_micro_batches_keep_their_budget_with_padding(budget: int):
    assert all(part.token_ids.numel() <= budget for part in collate(random_samples()).micro_batches(budget))


def test_a_row_longer_than_the_budget_goes_alone():
    parts = list(collate(random_samples()).micro_batches(10))
    assert [len(part) for part in parts] == [1, 1, 1, 1, 1, 1]


def test_rows_without_an_advantage_have_no_signal():
    batch = collate([random_sample(0, 9, 0.0), random_sample(1, 5, -1.0)])
    assert batch.with_signal().lengths.tolist() == [5]


def test_a_batch_of_nothing_has_no_parts():
    batch = collate([])
    assert list(batch.micro_batches(100)) == []
    assert torch.equal(batch.lengths, torch.zeros(0, dtype=torch.int64))
