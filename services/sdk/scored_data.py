"""A ScoredGroup as Atropos's trainers read it."""

from collections.abc import Iterator, Sequence

from core.errors import UserError
from core.types import ScoredGroup, Trajectory, Turn
from tool_call_parsers.rendering import extends, history

MASKED = -100
NOT_SAMPLED = 1.0  # no logprob is: their trainers know prompts by it


class NoTokens(UserError):
    """The policy that played gives no token ids, so nothing can be learned from what it did."""


def scored_data(group: ScoredGroup) -> dict[str, list | None]:
    """Sequences of all scored trajectories, each with its trajectory's reward; lost ones are left out.

    A trajectory is one sequence, or several where a turn's prompt does not begin with the turn before it: all of them
    are sent, so nothing that was sampled is lost. Raises NoTokens.
    """
    rows = [(one, turns) for one in group.scored for turns in _runs(one)]
    sequences = [_sequence(turns) for _, turns in rows]
    return {
        "tokens": [tokens for tokens, _, _ in sequences],
        "masks": [masks for _, masks, _ in sequences],
        "scores": [one.reward.total if one.reward else 0.0 for one, _ in rows],
        "inference_logprobs": [logprobs for _, _, logprobs in sequences],
        "advantages": None,
        "ref_logprobs": None,
        "messages": [[dict(said.to_openai()) for said in history(group.task.messages, one.turns)] for one, _ in rows],
        "generation_params": None,
        "overrides": None,
        "group_overrides": None,
        "images": None,
    }


def _runs(trajectory: Trajectory) -> Iterator[Sequence[Turn]]:
    """The turns of a trajectory, parted where one does not extend the one before."""
    if any(not turn.completion_ids for turn in trajectory.turns):
        raise NoTokens(f"trajectory {trajectory.id!r} has a turn without token ids: play with a policy of kind 'tokens'")
    start = 0
    for end in range(1, len(trajectory.turns) + 1):
        if end == len(trajectory.turns) or not extends(trajectory.turns[end - 1], trajectory.turns[end]):
            yield trajectory.turns[start:end]
            start = end


def _sequence(turns: Sequence[Turn]) -> tuple[list[int], list[int], list[float]]:
    """Ids, masks and logprobs, of one length each."""
    tokens: list[int] = []
    masks: list[int] = []
    logprobs: list[float] = []
    for turn in turns:
        new = turn.prompt_ids[len(tokens) :]
        tokens += [*new, *turn.completion_ids]
        masks += [MASKED] * len(new) + list(turn.completion_ids)
        logprobs += [NOT_SAMPLED] * len(new) + list(turn.logprobs)
    return tokens, masks, logprobs
