"""Memory that ran out, whoever says so: only CUDA has an exception of its own for it."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from core.errors import TrainingError

SAID = ("out of memory", "can't allocate memory", "bad_alloc")
"""By MPS and drivers, by torch's allocator on the CPU, by C++."""


def ran_out(error: BaseException) -> bool:
    """Whether that is what the error says."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


@contextmanager
def enough_memory(what: str, settings: str) -> Generator[None]:
    """Around work that is not done in parts. Raises TrainingError with the settings to change where memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise TrainingError(f"out of memory {what}: {settings}") from error
