"""How many threads a matrix product should use here and now."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import perf_counter

import torch

from core.logs import get_logger

log = get_logger("inference")

TRIALS, PRODUCTS = 5, 20
ROWS, WIDTH = 32, 512
WORTH = 0.9
"""More threads have to take less than this share of one thread's time: they cost whoever else computes here."""

Measure = Callable[[int], float]


def probed_threads(wanted: int, measure: Measure | None = None) -> int:
    """`wanted`, or 1 where that many threads are no faster than one, as on a machine whose cores are busy.

    `measure`: seconds that a little work takes with so many threads. Sets what this thread of torch uses.
    """
    measure = measure or product_seconds
    torch.get_num_threads()  # or the first product of this thread takes over the number that another thread set last
    if wanted > 1:
        one, several = measure(1), measure(wanted)
        if several > WORTH * one:
            log.warning("threads_do_not_help", wanted=wanted, used=1, slowdown=round(several / one, 2))
            wanted = 1
    torch.set_num_threads(wanted)
    return wanted


@contextmanager
def alone() -> Generator[None]:
    """This thread of torch computes without others, or it keeps a team of them for ever.

    With two teams there are more threads than cores, and OpenMP then lets those of the decode thread sleep between all
    their products: two of them were no faster than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def product_seconds(threads: int) -> float:
    """Median seconds of products of the size that a decode step makes. Median: a busy machine hurts most of them."""
    torch.set_num_threads(threads)
    left, right = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, 4 * WIDTH)
    seconds = []
    for _ in range(TRIALS):
        started = perf_counter()
        for _ in range(PRODUCTS):
            torch.mm(left, right)
        seconds.append(perf_counter() - started)
    return sorted(seconds)[TRIALS // 2]
