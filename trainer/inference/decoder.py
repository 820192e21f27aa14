"""The contract of a decoder, a model that continues rows of tokens, and of the slab where it keeps their states."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from trainer.inference.feed import Feed

Interrupt = Callable[[], bool]
"""Whether what is being computed should be left, because new weights wait."""


def never() -> bool:
    """Compute to the end."""
    return False


class Interrupted(Exception):
    """A forward pass was left between two layers."""


class Slab(Protocol):
    """What a decoder knows of the tokens of each row."""

    def reusable(self, row: int | None, saved: Any, tokens: int, shared: int) -> int:
        """How many of the `shared` first tokens of a row, or of `tokens` that were saved, can be taken over."""
        ...

    def copy_row(self, source: int, target: int, tokens: int) -> None:
        """The first `tokens` of one row into another."""
        ...

    def save(self, row: int, tokens: int) -> Any:
        """A copy of the first `tokens` of a row."""
        ...

    def restore(self, saved: Any, row: int, tokens: int) -> None:
        """The first `tokens` of what `save` gave, into a row."""
        ...

    def clear_row(self, row: int) -> None:
        """Forget a row whose numbers are no longer finite."""
        ...

    def free_row(self, row: int, tokens: int) -> None:
        """A row that held `tokens` is no longer used."""
        ...


class Decoder(Protocol):
    """Weights on a device, and their forward pass. Used from one thread."""

    device: str
    vocab_size: int
    max_positions: int
    """The longest text that the model was made for, in tokens."""

    def slab(self, rows: int, max_length: int) -> Slab:
        """An empty slab for that many rows of at most `max_length` tokens. Raises ConfigError."""
        ...

    def forward(self, feed: Feed, slab: Any, interrupt: Interrupt = never) -> Tensor:
        """Float32 logits after the last token of each row, (count, vocab); the slab then knows all tokens of the feed.

        Who can stop between layers asks `interrupt` there, and raises Interrupted: the slab knows none of them then.
        """
        ...

    def assign(self, weights: Mapping[str, Tensor]) -> None:
        """Copy weights in under their Hugging Face names. Raises TrainingError before anything is changed."""
        ...
