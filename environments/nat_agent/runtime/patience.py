"""How long a child may take: only while it is asked something, and not while it waits for a processor."""

LONGEST = 3
"""A child that gets no processor is waited for that many times its limit."""


class Patience:
    """The clock of one child. Times are seconds of one monotonic clock."""

    def __init__(self, wall_seconds: float) -> None:
        self._limit = self._allowed = wall_seconds
        self._used = 0.0
        self._asked_at: float | None = None

    @property
    def asked(self) -> bool:
        """Whether the child owes an answer."""
        return self._asked_at is not None

    def ask(self, now: float) -> None:
        """The child got something to do."""
        self._asked_at = now

    def answered(self, now: float) -> None:
        """It is the host's turn: what that takes is not the child's."""
        if self._asked_at is not None:
            self._used += now - self._asked_at
            self._asked_at = None

    @property
    def deadline(self) -> float:
        """When to look at the child next."""
        return float("inf") if self._asked_at is None else self._asked_at + self._allowed - self._used

    def verdict(self, now: float, waited_seconds: float) -> str:
        """Why a child whose deadline has come is to be ended: "late" or "starved"; "" where it gets more time.

        `waited_seconds`: how long it was ready to run so far while others did.
        """
        spent = self._used + (now - self._asked_at if self._asked_at is not None else 0.0)
        self._allowed = min(self._limit + waited_seconds, LONGEST * self._limit)
        if spent < self._allowed:
            return ""
        return "starved" if waited_seconds >= spent / 2 else "late"
