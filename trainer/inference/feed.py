"""What one forward pass computes: tokens of several rows, packed without padding."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Feed:
    """Tokens to run: ids, rows and positions (T) of the slab.

    They belong to slab rows [first_row, first_row + count). `padded` (T) says where each goes in a rectangle of
    (count, width) for attention, and is None where it is one token a row. `last` (count) picks each row's last token.
    """

    ids: Tensor
    rows: Tensor
    positions: Tensor
    first_row: int
    count: int
    width: int
    length: int
    padded: Tensor | None
    last: Tensor | None

    @classmethod
    def one_each(cls, tokens: list[int], positions: list[int], device: str) -> "Feed":
        """One token for each of the rows 0, 1, ..."""
        ids, places = torch.tensor([tokens, positions], device=device)
        rows = torch.arange(len(tokens), device=device)
        return cls(ids, rows, places, 0, len(tokens), 1, max(positions) + 1, None, None)

    @classmethod
    def runs(cls, tokens: list[list[int]], starts: list[int], first_row: int, device: str) -> "Feed":
        """A run of tokens for each of the rows from first_row on; run i begins at position starts[i]."""
        width = max(map(len, tokens))
        ids, rows, positions, padded, last = [], [], [], [], []
        for i, (run, start) in enumerate(zip(tokens, starts, strict=True)):
            ids += run
            rows += [first_row + i] * len(run)
            positions += range(start, start + len(run))
            padded += range(i * width, i * width + len(run))
            last.append(len(ids) - 1)
        packed = torch.tensor([ids, rows, positions, padded], device=device)
        picks, length = torch.tensor(last, device=device), max(positions) + 1
        return cls(packed[0], packed[1], packed[2], first_row, len(tokens), width, length, packed[3], picks)

    def bias(self, dtype: torch.dtype, window: int | None = None) -> Tensor:
        """What is added to attention scores: 0 where a token may look, -inf elsewhere; (count, 1, width, 1, length).

        With a `window` a token sees that many tokens at most, itself among them.
        """
        positions = self.positions
        if self.padded is not None:
            positions = positions.new_zeros(self.count * self.width).index_copy(0, self.padded, positions)
        reach, positions = torch.arange(self.length, device=positions.device), positions.view(self.count, 1, self.width, 1, 1)
        hidden = reach > positions
        if window is not None and window < self.length:
            hidden = hidden | (reach <= positions - window)
        return torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(hidden, -torch.inf)

    def places(self, kv_heads: int, length: int) -> Tensor:
        """Where the keys of these tokens go in a layer of the slab seen as (rows * kv_heads * length, head_dim)."""
        heads = torch.arange(kv_heads, device=self.rows.device)
        return ((self.rows.unsqueeze(1) * kv_heads + heads) * length + self.positions.unsqueeze(1)).flatten()

    def write(self, k: Tensor, v: Tensor, cache: tuple[Tensor, Tensor], places: Tensor) -> None:
        """Keys and values (T, kv_heads, head_dim) into one layer of the slab. One list of places serves all layers."""
        for part, new in zip(cache, (k, v), strict=True):
            part.view(-1, part.shape[-1]).index_copy_(0, places, new.to(part.dtype).reshape(-1, part.shape[-1]))

    def attend(self, q: Tensor, bias: Tensor, cache: tuple[Tensor, Tensor], softcap: float | None = None) -> Tensor:
        """What each token gathers from its row, (T, heads * head_dim), from scaled queries (T, heads, head_dim).

        `cache`: keys and values of one layer of the slab, (rows, kv_heads, length, head_dim). Query heads of a kv head
        share one product.
        """
        kv_heads, head_dim = cache[0].shape[1], cache[0].shape[3]
        if self.padded is not None:
            q = q.new_zeros(self.count * self.width, *q.shape[1:]).index_copy(0, self.padded, q)
        q = q.view(self.count, self.width, kv_heads, -1, head_dim).transpose(1, 2)
        q = q.reshape(self.count * kv_heads, -1, head_dim)
        k, v = (part[self.first_row : self.first_row + self.count].flatten(0, 1)[:, : self.length] for part in cache)
        scores = torch.bmm(q, k.transpose(1, 2))
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores.view(self.count, kv_heads, self.width, -1, self.length).add_(bias)
        mixed = torch.bmm(scores.softmax(-1), v)
        mixed = mixed.view(self.count, kv_heads, self.width, -1, head_dim).transpose(1, 2)
        mixed = mixed.reshape(self.count * self.width, -1)
        return mixed if self.padded is None else mixed[self.padded]
