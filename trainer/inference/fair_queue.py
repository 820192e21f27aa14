"""Who is next where several clients wait: each one's first before anybody's second."""

from bisect import insort
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from trainer.inference.completion import Completion

REMEMBERED_CLIENTS = 1024


class _Place(NamedTuple):
    turn: int
    arrival: int
    completion: Completion


class FairQueue:
    """Waiting completions, a turn a client: the k-th that a client has waiting comes in the k-th turn from now.

    Within a turn and for one client, first come, first served. Source: start-time fair queueing, Goyal et al. 1996,
    with every completion of the same size.
    """

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._turns: Counter[str | None] = Counter()  # the last turn that each client was given
        self._now = self._arrivals = 0

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Completion]:
        return (place.completion for place in self._places)

    def __contains__(self, completion: Completion) -> bool:
        return any(place.completion is completion for place in self._places)

    def add(self, completion: Completion) -> None:
        """Queue one behind those of its client."""
        turn = max(self._turns[completion.client] + 1, self._now)
        self._turns[completion.client] = turn
        self._arrivals += 1
        insort(self._places, _Place(turn, self._arrivals, completion))

    def take(self, completions: set[Completion]) -> None:
        """These are waiting no longer: they are being decoded."""
        taken = [place.turn for place in self._places if place.completion in completions]
        self._now = max([self._now, *taken])
        self.remove(completions)

    def remove(self, completions: set[Completion]) -> None:
        """These are waiting no longer: nobody wants them."""
        self._places = [place for place in self._places if place.completion not in completions]
        if len(self._turns) > REMEMBERED_CLIENTS + len(self._places):
            self._turns = Counter({client: turn for client, turn in self._turns.items() if turn > self._now})
