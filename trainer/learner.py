"""One lesson: scored groups -> samples -> batch -> gradient -> new weights. Knows nothing of queues and servers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from core.types import ScoredGroup
from trainer.algorithms.base import AdamParams, Algorithm
from trainer.batch import Batch, collate
from trainer.engines.base import DistantEngine, Engine, Pass
from trainer.samples import Admission, Dropped, SampleConfig, SampleSet, build_samples, refusal


@dataclass(frozen=True)
class Lesson:
    """What one batch of groups changed."""

    samples: SampleSet
    passes: tuple[Pass, ...]
    grad_norms: tuple[float, ...]

    @property
    def changed(self) -> bool:
        """Whether a weight was changed."""
        return bool(self.passes)

    @property
    def loss(self) -> float:
        """Mean over optimiser steps; 0.0 where nothing was learned from."""
        return sum(one.loss for one in self.passes) / max(len(self.passes), 1)

    @property
    def grad_norm(self) -> float:
        """Largest gradient norm before clipping, over optimiser steps."""
        return max(self.grad_norms, default=0.0)

    @property
    def tokens(self) -> int:
        """Completion tokens that were passed through the model."""
        return sum(one.tokens for one in self.passes)

    @property
    def row_tokens(self) -> int:
        """The same with prompts and observations."""
        return sum(one.row_tokens for one in self.passes)

    def mean(self, name: str) -> float:
        """A measurement per completion token; 0.0 where nothing was learned from."""
        return sum(one.means[name] * one.tokens for one in self.passes) / max(self.tokens, 1)

    def maximum(self, name: str) -> float:
        """A measurement's largest value of any completion token."""
        return max((one.maxima[name] for one in self.passes), default=0.0)


class Learner:
    """An algorithm and the engine that it moves."""

    def __init__(self, engine: Engine, algorithm: Algorithm, config: SampleConfig | None = None, seed: int = 0) -> None:
        self.engine = engine
        self.algorithm = algorithm
        self._config = config or SampleConfig()
        self._seed = seed

    def refused(self, groups: Sequence[ScoredGroup], admission: Admission) -> list[str]:
        """Ids of the groups of which nothing would be learned, but for those that were learned from already."""
        admission = replace(admission, compares=self.algorithm.compares)
        return [group.id for group in groups if refusal(group, admission) not in (None, Dropped.ALREADY_TRAINED)]

    def learn(self, groups: Sequence[ScoredGroup], admission: Admission, step: int) -> Lesson:
        """Update the weights from those groups; `step` counts from 0 and fixes learning rate and shuffling.

        A batch without a signal changes nothing. Raises TrainingError when loss or gradient are not finite.
        """
        admission = replace(admission, compares=self.algorithm.compares)
        samples = build_samples(groups, self.algorithm.advantages, self._config, admission)
        whole = collate(samples.samples)
        logprobs = self.engine.logprobs(whole) if self.algorithm.needs_logprobs and len(whole) else None
        passes: list[Pass] = []
        grad_norms: list[float] = []
        for rows in self._minibatches(len(whole), step):
            batch = whole.rows(torch.tensor(rows))
            known = None if logprobs is None else logprobs[rows, : batch.token_ids.shape[1]]
            batch = self.algorithm.prepare(batch, [samples.samples[row] for row in rows], known)
            tokens = batch.tokens
            # rows without an advantage only count in the divisor, unless a KL term moves them
            learned = batch if self.algorithm.needs_reference else batch.with_signal()
            if not learned.tokens:
                continue
            measured, grad_norm = self._update(learned, tokens, self.algorithm.config.adam(step))
            passes.append(measured)
            grad_norms.append(grad_norm)
        return Lesson(samples, tuple(passes), tuple(grad_norms))

    def _update(self, batch: Batch, tokens: int, params: AdamParams) -> tuple[Pass, float]:
        if isinstance(self.engine, DistantEngine):
            return self.engine.update(batch, self.algorithm.loss, tokens, params)
        return self.engine.forward_backward(batch, self.algorithm.loss, tokens), self.engine.optim_step(params)

    def _minibatches(self, rows: int, step: int) -> list[list[int]]:
        config = self.algorithm.config
        parts: list[list[int]] = []
        for epoch in range(config.epochs):
            order = list(range(rows))
            random.Random(f"{self._seed}-{step}-{epoch}").shuffle(order)
            count = min(config.minibatches, rows)
            parts += [order[index::count] for index in range(count)]
        return parts
