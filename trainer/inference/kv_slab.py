"""Keys and values of everything that is being decoded: one row a request, ragged lengths."""

import mmap
from contextlib import suppress
from math import gcd, prod
from typing import NamedTuple

import torch
from torch import Tensor

from core.errors import ConfigError
from trainer.inference.feed import Feed

FIRST_LENGTH = 256
KEPT_TOKENS = 512
"""What a free row may go on holding: giving pages back and getting new ones costs more than they are worth."""
MAP_NORESERVE = 0x4000  # of Linux on x86-64 and arm64; Python 3.13 names it


def cache_dtype(device: str, dtype: torch.dtype) -> torch.dtype:
    """Of keys and values for a model of that type: products of single rows are slow on a CPU in 16 bits."""
    return torch.float32 if device == "cpu" else dtype


class SlabShape(NamedTuple):
    """`rows` requests of at most `length` tokens each."""

    layers: int
    rows: int
    kv_heads: int
    length: int
    head_dim: int


class KVSlab:
    """Tensors `k` and `v` of shape (layers, rows, kv_heads, length, head_dim).

    Unused places are zero, never uninitialised: a masked NaN would still poison a weighted sum.
    """

    def __init__(
        self, shape: SlabShape, device: str = "cpu", dtype: torch.dtype = torch.float32, *, paged: bool | None = None
    ) -> None:
        """`paged`, which the CPU does unless told otherwise: there is room for the longest rows from the start.

        What was never written takes no memory then, so that one long conversation costs its own length and not that
        of all rows. Otherwise `length` grows when it must. Raises ConfigError where there is no address space.
        """
        self._pages = _Pages(shape, dtype) if (device == "cpu" if paged is None else paged) else None
        if self._pages is not None:
            self.k, self.v = self._pages.tensor
        else:
            first = shape._replace(length=min(FIRST_LENGTH, shape.length))
            self.k, self.v = (torch.zeros(first, dtype=dtype, device=device) for _ in range(2))

    @property
    def length(self) -> int:
        """Tokens that a row can hold now."""
        return self.k.shape[3]

    def reserve(self, length: int) -> None:
        """Make room for rows of that many tokens, doubling so that this is rare."""
        if length > self.length:
            wanted = max(length, 2 * self.length)
            self.k, self.v = self._grown(self.k, wanted), self._grown(self.v, wanted)

    def reusable(self, row: int | None, saved: Tensor | None, tokens: int, shared: int) -> int:
        """All of them: keys and values of a token depend on those before it only."""
        return shared

    def copy_row(self, source: int, target: int, tokens: int) -> None:
        """The first `tokens` of one row into another."""
        self.k[:, target, :, :tokens] = self.k[:, source, :, :tokens]
        self.v[:, target, :, :tokens] = self.v[:, source, :, :tokens]

    def save(self, row: int, tokens: int) -> Tensor:
        """A copy of the first `tokens` of a row, shape (2, layers, kv_heads, tokens, head_dim)."""
        return torch.stack((self.k[:, row, :, :tokens], self.v[:, row, :, :tokens]))

    def restore(self, saved: Tensor, row: int, tokens: int) -> None:
        """The first `tokens` of what `save` gave, into a row."""
        self.k[:, row, :, :tokens] = saved[0, :, :, :tokens]
        self.v[:, row, :, :tokens] = saved[1, :, :, :tokens]

    def erase(self, feed: Feed) -> None:
        """Zero the places of tokens whose layers were computed in part: weights that diverged write NaN there."""
        self.k[:, feed.rows, :, feed.positions] = 0.0
        self.v[:, feed.rows, :, feed.positions] = 0.0

    def clear_row(self, row: int) -> None:
        """Zero a row that may hold NaN."""
        if self._pages is not None:
            self._pages.forget(row)
        else:
            self.k[:, row] = 0.0
            self.v[:, row] = 0.0

    def free_row(self, row: int, tokens: int) -> None:
        """A row that held `tokens` is no longer used: give its memory back where that is worth it."""
        if self._pages is not None and tokens > KEPT_TOKENS:
            self._pages.forget(row)

    def _grown(self, old: Tensor, length: int) -> Tensor:
        new = old.new_zeros(*old.shape[:3], length, old.shape[4])
        new[:, :, :, : old.shape[3]] = old
        return new


class _Pages:
    """Zeros that take memory only where something was written: `tensor` holds k and v, each of that shape or longer."""

    def __init__(self, shape: SlabShape, dtype: torch.dtype) -> None:
        shape = shape._replace(length=_whole_pages(shape, dtype.itemsize))
        self._layers, self._rows = 2 * shape.layers, shape.rows
        self._row_bytes = prod(shape[2:]) * dtype.itemsize
        size = self._layers * self._rows * self._row_bytes
        try:
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"no address space for {shape.rows} completions of {shape.length} tokens at once ({size >> 30} GiB): "
                "lower inference.max_batch or inference.max_length"
            ) from error
        with suppress(OSError):  # a kernel without huge pages does not know the word
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.tensor = torch.frombuffer(self._map, dtype=dtype).view(2, *shape)

    def forget(self, row: int) -> None:
        """Zero a row and give its memory back."""
        for layer in range(self._layers):
            start = (layer * self._rows + row) * self._row_bytes
            self._map.madvise(mmap.MADV_DONTNEED, start, self._row_bytes)


def _whole_pages(shape: SlabShape, number_bytes: int) -> int:
    """A length at which each head of a row is whole pages."""
    step = mmap.PAGESIZE // gcd(mmap.PAGESIZE, shape.head_dim * number_bytes)
    # one page more than needed: rows a power of two apart would share the same few places of a CPU's cache
    return (-(-shape.length // step) + 1) * step
