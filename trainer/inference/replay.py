"""Decode steps that are recorded once and replayed: on a GPU a step is hundreds of small kernels, and starting each
from Python takes longer than it runs. A recording has fixed shapes, so a step takes the next larger one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.inference.decoder import Decoder, Interrupt, never
from trainer.inference.feed import Feed
from trainer.inference.kv_slab import KVSlab

LENGTH_STEP = 256
"""Recordings are made for rows of so many tokens and its multiples."""
WARM_UPS = 2

Step = Callable[[], Tensor]
Record = Callable[[Step], Step]


class SlabDecoder(Decoder, Protocol):
    """A decoder that keeps keys and values of all rows in one slab."""

    def slab(self, rows: int, max_length: int) -> KVSlab:
        """See Decoder."""
        ...


@dataclass(frozen=True)
class _Recording:
    feed: Feed
    run: Step


class ReplayingDecoder:
    """Fulfils Decoder with another's forward pass, recorded for steps of one token a row.

    The rows beyond those that are wanted compute one token nobody asked for, at their first place: they are free.
    """

    def __init__(self, decoder: SlabDecoder, record: Record) -> None:
        """`record` takes a step whose inputs and outputs stay where they are, and gives what repeats it."""
        self._decoder, self._record = decoder, record
        self.device, self.vocab_size, self.max_positions = decoder.device, decoder.vocab_size, decoder.max_positions
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._place = 0  # where the slab was when they were made
        self._rows = self._longest = 0

    def slab(self, rows: int, max_length: int) -> KVSlab:
        """See Decoder."""
        self._rows, self._longest = rows, max_length
        return self._decoder.slab(rows, max_length)

    def forward(self, feed: Feed, slab: KVSlab, interrupt: Interrupt = never) -> Tensor:
        """See Decoder. What was recorded goes on to its end."""
        if feed.padded is not None:
            return self._decoder.forward(feed, slab, interrupt)
        rows = min(1 << (feed.count - 1).bit_length(), self._rows)
        length = min(-(-feed.length // LENGTH_STEP) * LENGTH_STEP, self._longest)
        slab.reserve(length)
        if slab.k.data_ptr() != self._place:  # it grew: what was recorded writes where nobody reads
            self._recordings.clear()
            self._place = slab.k.data_ptr()
        recording = self._recordings.get((rows, length))
        if recording is not None:
            _fill(recording.feed, feed)
            return recording.run()[: feed.count]
        wide = self._wide(rows, length)
        _fill(wide, feed)  # before it is recorded: every trial run writes what belongs there
        recording = _Recording(wide, self._record(lambda: self._decoder.forward(wide, slab)))
        self._recordings[rows, length] = recording
        return recording.run()[: feed.count]

    def assign(self, weights: Mapping[str, Tensor]) -> None:
        """See Decoder. Weights are copied in place, where recordings read them."""
        self._decoder.assign(weights)

    def _wide(self, rows: int, length: int) -> Feed:
        """A feed of one token a row whose tensors stay where they are."""
        ids, positions = (torch.zeros(rows, dtype=torch.int64, device=self.device) for _ in range(2))
        return Feed(ids, torch.arange(rows, device=self.device), positions, 0, rows, 1, length, None, None)


def _fill(wide: Feed, feed: Feed) -> None:
    wide.ids.zero_()[: feed.count].copy_(feed.ids)
    wide.positions.zero_()[: feed.count].copy_(feed.positions)


def record_on_cuda(step: Step) -> Step:
    """A CUDA graph of the step. Source: torch.cuda.graph, with the warm-up on another stream that it asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # the thread that trains goes on allocating meanwhile, which only a capture of this thread's own calls lets it
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = step()

    def replay() -> Tensor:
        graph.replay()
        return made

    return replay
