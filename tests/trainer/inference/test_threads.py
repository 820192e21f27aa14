"""More threads are used where they help, tried once at the start."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from trainer.inference.threads import alone, probed_threads, product_seconds


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


def test_a_thread_keeps_its_number_whatever_another_one_sets_later():
    told, set_elsewhere = Event(), Event()

    def decode() -> int:
        probed_threads(1)
        told.set()
        set_elsewhere.wait(60)
        return torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        used = pool.submit(decode)
        told.wait(60)
        torch.set_num_threads(2)
        set_elsewhere.set()
        assert used.result() == 1


def test_who_loads_a_model_computes_alone_and_has_its_number_back():
    torch.set_num_threads(2)
    with alone():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
