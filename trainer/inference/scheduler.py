"""Continuous batching: who is decoded in which row, who is admitted next, and what is reused.

Running completions hold the slab's rows 0, 1, ... without a gap, so that a decode step reads one slice. New ones
are prefilled in the rows behind them. All of it is driven by `step`, from one thread.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

from torch import Tensor

from core.errors import PolicyError
from core.types import FinishReason
from trainer.inference.completion import Completion
from trainer.inference.decoder import Decoder, Interrupt, Interrupted, Slab, never
from trainer.inference.fair_queue import FairQueue
from trainer.inference.feed import Feed
from trainer.inference.prefix_cache import BLOCK, Prefix, PrefixCache
from trainer.inference.sampling import draw, masked

FIRST_ROWS = 8
"""Rows that the first step after a publication samples: a step of so many takes half as long as one of 32."""


@dataclass
class Counters:
    """What happened since start; read by other threads, written by the decode thread only."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    decode_steps: int = 0
    publishes: int = 0
    interrupted_steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    publish_seconds: float = 0.0


class Room(NamedTuple):
    """How much is decoded and kept at once."""

    max_batch: int
    """Completions decoded together."""
    max_length: int
    """Prompt and completion, in tokens."""
    prefill_tokens: int
    """Prompt tokens computed between two decode steps."""
    cache_tokens: int
    """Tokens kept for a next turn."""


@dataclass(frozen=True)
class Admission:
    """A waiting completion that is prefilled now: `shared` first tokens come from `source`."""

    completion: Completion
    source: Prefix | None
    shared: int

    @property
    def missing(self) -> int:
        """Prompt tokens to compute."""
        return self.completion.prompt_length - self.shared


class Scheduler:
    """Decodes completions in batches. Not safe for two threads at once."""

    def __init__(self, model: Decoder, room: Room, version: int = 0) -> None:
        self.model, self.version = model, version
        self.counters = Counters()
        self.cache = PrefixCache(room.cache_tokens)
        self.waiting = FairQueue()
        self.running: list[Completion] = []
        self._room = room
        self._swapped = self._interrupted = False
        self._slab: Slab = model.slab(room.max_batch, room.max_length)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self.waiting and not self.running

    def submit(self, completion: Completion) -> None:
        """Queue a completion; clients take turns."""
        self.waiting.add(completion)

    def cancel(self, completion: Completion) -> None:
        """Free the place of a completion, wherever it is."""
        if completion in self.running:
            self._release([completion])
        else:
            self.waiting.remove({completion})

    def fail_all(self) -> list[Completion]:
        """Forget everything in flight and cached, and return what was in flight."""
        lost = [*self.running, *self.waiting]
        self.running, self.waiting = [], FairQueue()
        self.cache.clear()
        self._slab = self.model.slab(self._room.max_batch, self._room.max_length)
        return lost

    def swap(self, weights: Mapping[str, Tensor], version: int) -> None:
        """New weights between two steps. Running completions go on with their keys and values; nobody else reuses them."""
        started = perf_counter()
        self.model.assign(weights)
        self.version = version
        self.cache.clear()
        for completion in self.running:
            completion.prefix = None
        self._swapped = True
        self.counters.publishes += 1
        self.counters.publish_seconds += perf_counter() - started

    def step(self, interrupt: Interrupt = never) -> list[Completion]:
        """Admit, then sample one token for all that run. Returns those that got tokens or ended, each once.

        Where `interrupt` says so, what is being computed is left to the next step. That one goes on to its end:
        publications in a row hold nobody up for ever.
        """
        touched: dict[Completion, None] = {}
        interrupt, self._interrupted = never if self._interrupted else interrupt, False
        try:
            for computed in self._computed(interrupt):
                touched.update(dict.fromkeys(computed))
        except Interrupted:
            self._interrupted = True
            self.counters.interrupted_steps += 1
        return list(touched)

    def _computed(self, interrupt: Interrupt) -> Iterator[list[Completion]]:
        """What got tokens in one step, batch by batch."""
        left = self._room.prefill_tokens
        while left > 0 and (admissions := self._admissions(left)):
            left -= sum(admission.missing for admission in admissions)
            yield self._prefill(admissions, interrupt)
        if self.running:
            yield self._decode(interrupt)

    def _prefill(self, admissions: Sequence[Admission], interrupt: Interrupt) -> list[Completion]:
        """Compute prompts in the rows behind the running ones, and sample their first tokens."""
        started = perf_counter()
        first_row = len(self.running)
        batch = [admission.completion for admission in admissions]
        logits = self._prompt_logits(admissions, first_row, interrupt)
        for row, admission in enumerate(admissions, start=first_row):
            completion = admission.completion
            completion.cached_tokens = admission.shared
            self.counters.prompt_tokens += completion.prompt_length
            self.counters.cached_prompt_tokens += admission.shared
            completion.prefix = Prefix(completion.tokens[: completion.prompt_length], row, session_id=completion.session_id)
            self.cache.add(completion.prefix)
        self.waiting.take(set(batch))
        self.running += batch
        self._sample(batch, logits)
        self.counters.prefill_seconds += perf_counter() - started
        return batch

    def _prompt_logits(self, admissions: Sequence[Admission], first_row: int, interrupt: Interrupt) -> Tensor:
        """Logits after each prompt, which is in its row then. Interrupted: those rows are free and zero."""
        for row, admission in enumerate(admissions, start=first_row):
            self._reuse(admission, row)
        try:
            return [self._forward(feed, interrupt) for feed in self._prompt_feeds(admissions, first_row)][-1]
        except Interrupted:
            for row in range(first_row, first_row + len(admissions)):
                self._slab.clear_row(row)
            raise

    def _forward(self, feed: Feed, interrupt: Interrupt) -> Tensor:
        started = perf_counter()
        try:
            return self.model.forward(feed, self._slab, interrupt)
        except Interrupted:
            self.counters.publish_seconds += perf_counter() - started
            raise

    def _reuse(self, admission: Admission, row: int) -> None:
        """Put the shared first tokens into the row."""
        source, shared = admission.source, admission.shared
        if source is None:
            return
        if source.row is not None:
            self._slab.copy_row(source.row, row, shared)
        elif source.saved is not None:
            self._slab.restore(source.saved, row, shared)
            self.cache.touch(source)

    def _prompt_feeds(self, admissions: Sequence[Admission], first_row: int) -> Iterator[Feed]:
        """The missing tokens in one feed; a single long prompt in several, to bound the memory of attention."""
        runs = [admission.completion.tokens[admission.shared :] for admission in admissions]
        starts = [admission.shared for admission in admissions]
        if len(runs) > 1:
            yield Feed.runs(runs, starts, first_row, self.model.device)
            return
        for begin in range(0, len(runs[0]), self._room.prefill_tokens):
            part = runs[0][begin : begin + self._room.prefill_tokens]
            yield Feed.runs([part], [starts[0] + begin], first_row, self.model.device)

    def _decode(self, interrupt: Interrupt) -> list[Completion]:
        started = perf_counter()
        batch = self.running[: FIRST_ROWS if self._swapped else None]
        feed = Feed.one_each([one.tokens[-1] for one in batch], [len(one.tokens) - 1 for one in batch], self.model.device)
        self._sample(batch, self._forward(feed, interrupt))
        self.counters.decode_steps += 1
        self.counters.decode_seconds += perf_counter() - started
        return batch

    def _sample(self, batch: Sequence[Completion], logits: Tensor) -> None:
        logits = masked(logits, [one.allowed() for one in batch])
        tokens, logprobs = draw(logits, [one.params for one in batch], [one.uniform() for one in batch])
        for completion, token, logprob in zip(batch, tokens, logprobs, strict=True):
            completion.append(token, logprob, self.version)
        self._swapped = False
        self.counters.generated_tokens += len(batch)
        self._release([one for one in batch if one.end is not None])

    def _admissions(self, budget: int) -> list[Admission]:
        """Waiting completions to prefill together, in order, within a rectangle of `budget` tokens (one at least).

        Who shares an uncached block with somebody of this round waits for the next, where it is cached: a group's
        prompt and a system prompt that is common to all are computed once.
        """
        chosen: list[Admission] = []
        computing: set[int] = set()
        widest = 0
        for completion in self.waiting:
            if len(self.running) + len(chosen) >= self._room.max_batch:
                break
            source, found = self.cache.find(completion.tokens, completion.prompt_keys)
            shared = min(found, completion.prompt_length - 1)
            if source is not None:
                usable = self._slab.reusable(source.row, source.saved, len(source.tokens), shared)
                found, shared = (found, shared) if usable == shared else (usable, usable)
            admission = Admission(completion, source if shared else None, shared)
            fresh = completion.prompt_keys[found // BLOCK :]
            if fresh and fresh[0] in computing:
                continue
            width = max(widest, admission.missing)
            if chosen and width * (len(chosen) + 1) > budget:
                break
            widest = width
            computing.update(fresh)
            chosen.append(admission)
        return chosen

    def _release(self, ended: Sequence[Completion]) -> None:
        """Free rows; the last running one moves into each gap, and what ended well is kept for a next turn."""
        for completion in ended:
            row = self.running.index(completion)
            self._retire(completion, row)
            self._slab.free_row(row, len(completion.tokens))
            mover = self.running.pop()
            if mover is completion:
                continue
            self._slab.copy_row(len(self.running), row, len(mover.tokens) - 1)
            self._slab.free_row(len(self.running), len(mover.tokens))
            self.running[row] = mover
            if mover.prefix is not None:
                mover.prefix.row = row

    def _retire(self, completion: Completion, row: int) -> None:
        if isinstance(completion.end, PolicyError):
            self._slab.clear_row(row)  # a NaN left behind would reach whoever gets the row next
        prefix, completion.prefix = completion.prefix, None
        if prefix is None:
            return
        if not isinstance(completion.end, FinishReason):
            self.cache.drop(prefix)
            return
        prefix.tokens = completion.tokens[:-1]  # the last token was sampled, not yet computed
        self.cache.keep(prefix, self._slab.save(row, len(prefix.tokens)))
