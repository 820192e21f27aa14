"""Keys and values of everything that is being decoded: one row a request, ragged lengths."""

import torch
from torch import Tensor

MIN_LENGTH = 256


class KVSlab:
    """Tensors `k` and `v` of shape (layers, rows, kv_heads, length, head_dim); `length` grows when it must.

    Unused places are zero, never uninitialised: a masked NaN would still poison a weighted sum.
    """

    def __init__(self, layers: int, rows: int, kv_heads: int, head_dim: int, device: str = "cpu") -> None:
        self._device = device
        self.k = torch.zeros(layers, rows, kv_heads, MIN_LENGTH, head_dim, device=device)
        self.v = torch.zeros_like(self.k)

    @property
    def length(self) -> int:
        """Tokens that a row can hold now."""
        return self.k.shape[3]

    def reserve(self, length: int) -> None:
        """Make room for rows of that many tokens, doubling so that this is rare."""
        if length > self.length:
            wanted = max(length, 2 * self.length)
            self.k, self.v = self._grown(self.k, wanted), self._grown(self.v, wanted)

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

    def clear_row(self, row: int) -> None:
        """Zero a row that may hold NaN."""
        self.k[:, row] = 0.0
        self.v[:, row] = 0.0

    def _grown(self, old: Tensor, length: int) -> Tensor:
        new = torch.zeros(*old.shape[:3], length, old.shape[4], device=self._device)
        new[:, :, :, : old.shape[3]] = old
        return new
