"""In which order the tasks of a split are played."""

import random
from collections.abc import Iterator, Sequence

from core.types import Task


def shuffled_for_ever(tasks: Sequence[Task], seed: int) -> Iterator[Task]:
    """Every task once an epoch, each epoch in an order of its own that the seed decides."""
    epoch = 0
    while True:
        order = list(tasks)
        random.Random(f"{seed}-{epoch}").shuffle(order)
        yield from order
        epoch += 1
