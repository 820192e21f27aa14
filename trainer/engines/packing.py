"""Rows of a batch behind each other, without padding; what several of them begin with is there once.

Members of a group share their prompt, and rows of an episode whose history was rewritten share most of it. Sorted, such
rows are neighbours and make a tree: a segment is a run of tokens that the same rows pass through, and a token sees its
own segment up to itself and the segments above. Tokens keep the positions that they have in their rows, so a model
computes for each what it computes in a row of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LEAST_SHARED = 16
"""Tokens; a segment costs some calls in each layer, which shorter ones are not worth."""


class Layout(StrEnum):
    """How the rows of a micro-batch lie in a forward pass."""

    SHARED = "shared"
    """Behind each other; a beginning that rows have in common is computed once."""
    PACKED = "packed"
    """Behind each other."""
    PADDED = "padded"
    """Below each other, filled up to the longest."""


class Segment(NamedTuple):
    """A run of tokens of a pack; the segments of a pack lie behind each other."""

    length: int
    above: tuple[int, ...]
    """Numbers of the segments that come before it in its rows, from the first token on."""


@dataclass(frozen=True)
class Pack:
    """N tokens that stand for B rows of at most T tokens."""

    token_ids: Tensor
    """(1, N) int64."""
    position_ids: Tensor
    """(1, N) int64: where each token is in its rows."""
    places: Tensor
    """(B, T) int64: where in the pack the tokens of each row are; 0 behind what its row is asked for."""
    segments: tuple[Segment, ...]

    def mask(self) -> Tensor:
        """Which token (first) sees which (second), (N, N) bool."""
        lengths = torch.tensor([segment.length for segment in self.segments])
        sees_segment = torch.eye(len(lengths), dtype=torch.bool)
        for number, segment in enumerate(self.segments):
            sees_segment[number, list(segment.above)] = True
        sees = sees_segment.repeat_interleave(lengths, dim=0).repeat_interleave(lengths, dim=1)
        return sees.tril().to(self.token_ids.device)  # a segment lies behind those above it


class _Rows:
    """Rows as far as something is asked of them, sorted, and how many tokens each has in common with the one before."""

    def __init__(self, token_ids: Tensor, loss_mask: Tensor, least_shared: int) -> None:
        asked = (loss_mask.cpu() * torch.arange(loss_mask.shape[1])).amax(dim=1)
        # what the model says after the last token that is asked for is asked by no one
        rows = [row[: max(1, end)] for row, end in zip(token_ids.cpu().numpy(), asked.tolist(), strict=True)]
        self.order = sorted(range(len(rows)), key=lambda index: rows[index].tolist())
        self.ids = [rows[index] for index in self.order]
        self.common = [0, *(_common(*pair) for pair in pairwise(self.ids))]
        self.least_shared = least_shared

    def trees(self) -> Iterator[range]:
        """Runs of rows that have a beginning in common."""
        return self.parted(range(len(self.ids)), 0)

    def parted(self, rows: range, depth: int) -> Iterator[range]:
        """The parts of a run whose rows have enough in common beyond `depth`."""
        starts = [row for row in rows if row == rows.start or self.common[row] < depth + self.least_shared]
        yield from (range(start, end) for start, end in pairwise([*starts, rows.stop]))

    def tokens(self, rows: range) -> int:
        """Tokens that a run of rows needs at most, those in common counted once."""
        # rows part where an earlier pair did, if that is less than `least_shared` before the place where they differ
        shared = (max(0, self.common[row] - self.least_shared + 1) for row in rows[1:])
        return sum(len(self.ids[row]) for row in rows) - sum(shared)


def cut(token_ids: Tensor, loss_mask: Tensor, budget: int, least_shared: int = LEAST_SHARED) -> list[list[int]]:
    """Indices of the rows of each micro-batch: packs of at most `budget` tokens, one row at least.

    Rows with a beginning in common stay together where they fit. Of token_ids and loss_mask (B, T).
    """
    rows = _Rows(token_ids, loss_mask, least_shared)
    parts: list[range] = []
    for tree in rows.trees():
        start = parts.pop().start if parts and rows.tokens(range(parts[-1].start, tree.stop)) <= budget else tree.start
        for row in tree:
            if row > max(start, tree.start - 1) and rows.tokens(range(start, row + 1)) > budget:
                parts.append(range(start, row))
                start = row
        parts.append(range(start, tree.stop))
    return [[rows.order[row] for row in part] for part in parts]


def plant(token_ids: Tensor, loss_mask: Tensor, least_shared: int = LEAST_SHARED) -> Pack:
    """The pack of rows (B, T), each as far as its last token with a True loss mask asks for it."""
    rows = _Rows(token_ids, loss_mask, least_shared)
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    segments: list[Segment] = []
    places = np.zeros(token_ids.shape, dtype=np.int64)
    waiting: list[tuple[range, int, tuple[int, ...]]] = [(tree, 0, ()) for tree in rows.trees()]
    filled = 0
    while waiting:
        run, depth, above = waiting.pop()
        longest = rows.ids[run.start]
        end = min((rows.common[row] for row in run[1:]), default=len(longest))
        if end > depth:
            ids.append(longest[depth:end])
            positions.append(np.arange(depth, end))
            for row in run:
                places[rows.order[row], depth:end] = positions[-1] - depth + filled
            filled += end - depth
            above = (*above, len(segments))
            segments.append(Segment(end - depth, above[:-1]))
        if len(run) > 1:
            waiting += [(part, end, above) for part in rows.parted(run, end)]
    device = token_ids.device
    return Pack(_row(ids, device), _row(positions, device), torch.from_numpy(places).to(device), tuple(segments))


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Tokens that two rows begin with in common."""
    shorter = min(len(one), len(other))
    differing = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differing[0]) if len(differing) else shorter


def _row(parts: Sequence[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)[None]
