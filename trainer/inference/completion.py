"""One completion on its way: what was asked, what has been sampled, and when it ends."""

from collections.abc import Callable, Sequence
from math import isfinite
from random import Random

from core.errors import PolicyError
from core.types import FinishReason
from trainer.inference.base import Generation, GenerationRequest, TokenChunk, VersionSpan
from trainer.inference.prefix_cache import Prefix, block_keys

Decode = Callable[[Sequence[int]], str]


class Completion:
    """Belongs to the decode thread once it was submitted; `end` is set when it needs no more tokens."""

    def __init__(self, request: GenerationRequest, seed: int, max_length: int, decode: Decode | None) -> None:
        params = request.params
        self.params, self.session_id, self.client = params, request.session_id, request.client
        self.tokens = list(request.prompt_ids)
        self.prompt_length = len(self.tokens)
        self.prompt_keys = block_keys(self.tokens)
        self.limit = min(self.prompt_length + params.max_tokens, max_length)
        self.logprobs: list[float] = []
        self.cached_tokens = 0
        self.prefix: Prefix | None = None
        """What others may reuse of this row; None once the weights changed under it."""
        self.end: FinishReason | PolicyError | None = None
        self._taken = 0
        self._random = Random(seed)
        self._constraint = request.constraint() if request.constraint is not None else None
        self._stops = frozenset(params.stop_token_ids)
        self._starts: list[tuple[int, int]] = []  # (version, first completion token of it)
        self._decode = decode
        # a token spells at least one byte, so this many of the last ones cover every stop text that just ended
        self._tail = max((len(text.encode()) for text in params.stop), default=0) + 4

    def uniform(self) -> float:
        """The next number in [0, 1) of this request's own stream."""
        return self._random.random()

    def allowed(self) -> bytes | None:
        """Which tokens may be sampled next, a bit each; None where any may."""
        return None if self._constraint is None else self._constraint.allowed()

    def append(self, token: int, logprob: float, version: int) -> None:
        """Take one sampled token and see whether it is the last."""
        if self._constraint is not None and self._constraint.problem:
            self.end = PolicyError(f"constrained sampling: {self._constraint.problem}")
            return
        if not isfinite(logprob):
            self.end = PolicyError(f"policy version {version} gives no finite logits; its weights have diverged")
            return
        if not self._starts or self._starts[-1][0] != version:
            self._starts.append((version, len(self.logprobs)))
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self._constraint is not None:
            self._constraint.accept(token)
        if token in self._stops or (self.params.stop and self._spells_stop()):
            self.end = FinishReason.STOP
        elif len(self.tokens) >= self.limit:
            self.end = FinishReason.LENGTH

    def new_chunk(self) -> TokenChunk:
        """The tokens since the last call; all of one policy version if it is called after each step."""
        start, self._taken = self._taken, len(self.logprobs)
        reason = self.end if isinstance(self.end, FinishReason) else None
        ids = self.tokens[self.prompt_length + start :]
        return TokenChunk(tuple(ids), tuple(self.logprobs[start:]), self._starts[-1][0], reason)

    def generation(self) -> Generation:
        """What the caller gets. Only for a completion that ended with a finish reason."""
        assert isinstance(self.end, FinishReason)
        ends = [start for _, start in self._starts[1:]] + [len(self.logprobs)]
        return Generation(
            token_ids=tuple(self.tokens[self.prompt_length :]),
            logprobs=tuple(self.logprobs),
            finish_reason=self.end,
            spans=tuple(VersionSpan(version, start, end) for (version, start), end in zip(self._starts, ends, strict=True)),
            cached_tokens=self.cached_tokens,
        )

    def _spells_stop(self) -> bool:
        assert self._decode is not None
        text = self._decode(self.tokens[max(self.prompt_length, len(self.tokens) - self._tail) :])
        return any(stop in text for stop in self.params.stop)
