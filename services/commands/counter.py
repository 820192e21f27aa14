"""How far a command is, on standard error: one line that is written over, nothing where nobody looks."""

import sys
from collections.abc import Callable
from time import monotonic


class Counter:
    """Counts things up to a total, with their rate, what they cost and the time that is left."""

    def __init__(
        self, what: str, total: int, cost: Callable[[], str] = lambda: "", now: Callable[[], float] = monotonic
    ) -> None:
        """`cost` says what was spent so far, in a few words."""
        self._what, self._total, self._count, self._before, self._cost = what, total, 0, 0, cost
        self._now, self._started = now, now()
        self._shown = sys.stderr.isatty()

    def begin_at(self, done: int) -> None:
        """So many are there from before: they count, and say nothing about the rate."""
        self._before = done

    def add(self) -> None:
        """One more."""
        self._count += 1
        if self._shown:
            sys.stderr.write(f"\r{self.line()}\x1b[K")
            sys.stderr.flush()

    def line(self) -> str:
        """`12 of 100 groups   1.5/s   4,096 + 812 tokens   59 s left`."""
        seconds = max(self._now() - self._started, 1e-9)
        rate, done = self._count / seconds, self._before + self._count
        left = _spoken((self._total - done) / rate) if rate else "?"
        told = [f"{done} of {self._total} {self._what}", f"{rate:.1f}/s", self._cost(), f"{left} left"]
        return "   ".join(part for part in told if part)

    def close(self) -> None:
        """Wipe the line."""
        if self._shown and self._count:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
