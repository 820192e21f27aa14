"""Which groups make a batch of an exact number of sequences, oldest first, whatever sizes groups have."""

from collections.abc import Mapping, Sequence

from services.rollout_api.atropos_state import RUN, Sender
from services.rollout_api.base import Choose, Head

WAIT_BATCHES = 2
"""So many batches wait before one goes out that has fewer sequences: groups that still come might have made it whole."""


def batch_of(sequences: int, shares: Mapping[int, float]) -> Choose:
    """Picks groups that have `sequences` together; `shares`: what part of a batch an environment gets at least.

    A minimum is filled with what its environment has, and waits for nothing. Where no groups add up to the number, a
    batch has fewer once two batches wait; a group that is larger than a batch is one of its own. No group is split.
    """

    def choose(window: Sequence[Head]) -> Sequence[Head] | None:
        queued = [head for head in window if head.dialect == RUN]
        ordered = _minima_first(queued, sequences, shares)
        chosen = _exactly(ordered, sequences)
        if chosen is None and shares:
            chosen = _exactly(queued, sequences)
        if chosen is None and sum(head.trajectories for head in queued) >= WAIT_BATCHES * sequences:
            chosen = _at_most(queued, sequences)
        return sorted(chosen, key=lambda head: (head.policy_version, head.arrival)) if chosen else None

    return choose


def _minima_first(queued: Sequence[Head], sequences: int, shares: Mapping[int, float]) -> Sequence[Head]:
    """The groups that fill a minimum, then the others, both in order."""
    if not shares:
        return queued
    scale = max(1.0, sum(shares.values()))
    wanted = {env_id: int(sequences * share / scale) for env_id, share in shares.items()}
    first: list[Head] = []
    rest: list[Head] = []
    for head in queued:
        env_id = Sender.of(head.environment).env_id
        missing = wanted.get(env_id, 0) if env_id is not None else 0
        (first if missing > 0 else rest).append(head)
        if env_id is not None and missing > 0:
            wanted[env_id] = missing - head.trajectories
    return first + rest


def _exactly(queued: Sequence[Head], sequences: int) -> list[Head] | None:
    """Groups of that many sequences together, each as early as can be; None where none add up to it."""
    plain = _at_most(queued, sequences, whole=True)
    if sum(head.trajectories for head in plain) == sequences:
        return plain
    # reach[i]: bit n is set where some of the groups from i on have n sequences together
    mask = (1 << (sequences + 1)) - 1
    reach = [1]
    for head in reversed(queued):
        reach.append((reach[-1] | reach[-1] << head.trajectories) & mask if head.trajectories <= sequences else reach[-1])
    reach.reverse()
    if not reach[0] >> sequences & 1:
        return None
    chosen: list[Head] = []
    left = sequences
    for index, head in enumerate(queued):
        if head.trajectories <= left and reach[index + 1] >> (left - head.trajectories) & 1:
            chosen.append(head)
            left -= head.trajectories
            if not left:
                break
    return chosen


def _at_most(queued: Sequence[Head], sequences: int, *, whole: bool = False) -> list[Head]:
    """From the oldest on, what fits; the oldest alone where it does not fit, unless `whole`."""
    chosen: list[Head] = []
    left = sequences
    for head in queued:
        if head.trajectories <= left:
            chosen.append(head)
            left -= head.trajectories
        if not left:
            break
    oldest_is_larger = bool(queued) and queued[0].trajectories > sequences
    return [queued[0]] if oldest_is_larger and not whole else chosen
