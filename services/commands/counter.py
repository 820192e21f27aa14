"""How far a command is, on standard error: one line that is written over, nothing where nobody looks."""

import sys


class Counter:
    """Counts things up to a total."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._count = what, total, 0
        self._shown = sys.stderr.isatty()

    def add(self) -> None:
        """One more."""
        self._count += 1
        if self._shown:
            sys.stderr.write(f"\r{self._count} of {self._total} {self._what}")
            sys.stderr.flush()

    def close(self) -> None:
        """Wipe the line."""
        if self._shown and self._count:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
