"""More threads are used where they help, tried once at the start."""

from collections.abc import Callable, Iterator

import pytest
import torch

from trainer.inference.threads import probed_threads, product_seconds


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def takes(seconds: dict[int, float]) -> Callable[[int], float]:
    return lambda threads: seconds[threads]


@pytest.mark.parametrize(
    ("wanted", "seconds", "used"),
    [(1, {}, 1), (2, {1: 1.0, 2: 0.6}, 2), (2, {1: 1.0, 2: 10.0}, 1), (4, {1: 1.0, 4: 0.95}, 1)],
    ids=["one is not tried", "two are faster", "two collapse", "four are hardly faster"],
)
def test_threads_are_used_where_they_help(wanted: int, seconds: dict[int, float], used: int):
    assert probed_threads(wanted, takes(seconds)) == used
    assert torch.get_num_threads() == used


def test_the_trial_measures_the_threads_that_it_is_told():
    assert product_seconds(2) > 0
    assert torch.get_num_threads() == 2
