"""How far a command is, on standard error: one line that is written over, nothing where nobody looks."""

import sys
from collections.abc import Callable
from time import monotonic


class Counter:
    """Counts things up to a total, with their rate, the tokens that they cost and the time that is left."""

    def __init__(self, what: str, total: int, now: Callable[[], float] = monotonic) -> None:
        self._what, self._total, self._count, self._tokens = what, total, 0, 0
        self._now, self._started = now, now()
        self._shown = sys.stderr.isatty()

    def add(self, tokens: int = 0) -> None:
        """One more, and the tokens that were sampled for it."""
        self._count += 1
        self._tokens += tokens
        if self._shown:
            sys.stderr.write(f"\r{self.line()}\x1b[K")
            sys.stderr.flush()

    def line(self) -> str:
        """`12 of 100 groups   1.5/s   4,096 tokens   59 s left`."""
        seconds = max(self._now() - self._started, 1e-9)
        rate = self._count / seconds
        left = (self._total - self._count) / rate if self._count else 0.0
        tokens = f"   {self._tokens:,} tokens" if self._tokens else ""
        return f"{self._count} of {self._total} {self._what}   {rate:.1f}/s{tokens}   {_spoken(left)} left"

    def close(self) -> None:
        """Wipe the line."""
        if self._shown and self._count:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
