"""What the trainer learns from: scored groups become token-exact rows, and every rollout that does not is counted.

Token in, token out: a row holds the ids that the sampler saw and sampled. Turns of a trajectory share a row as long
as each prompt extends the turn before it; where it does not (a template dropped old thinking), a new row begins.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from core.config import Config
from core.types import Sample, ScoredGroup, StopReason, Trajectory, Turn

REWARD_TOLERANCE = 1e-9  # float64 rounding of a dozen parts: equal rewards, no signal
LEAST_LOGPROB, MOST_LOGPROB = -60.0, 0.1
"""Nats. Ratios to much below overflow float32; what is above, but for rounding in 16 bits, is no probability."""
LARGEST_REWARD = 1e18  # its square, and sums of those, still fit into float32
CUT_OFF = frozenset({StopReason.MAX_TURNS, StopReason.MAX_TOKENS, StopReason.TIMEOUT})

Advantages = Callable[[Sequence[float]], Sequence[float | None]]
"""Rewards of a group's scored members -> one advantage each, both (G,); None for a member that is not learned from."""


class Dropped(StrEnum):
    """Why a rollout was not learned from."""

    FAILED = "failed"
    """Lost at a boundary: no score."""
    STALE = "stale"
    """Sampled by a policy that is too old."""
    ALREADY_TRAINED = "already_trained"
    """Its group came back after a crash, though its update is in the checkpoint."""
    TOO_SMALL = "too_small"
    """Fewer than two scored members: nothing to compare with."""
    ZERO_VARIANCE = "zero_variance"
    """All members earned the same."""
    NOT_CHOSEN = "not_chosen"
    """The algorithm learns from other members only: SFT from good ones, DPO from the best and the worst."""
    CUT_OFF = "cut_off"
    """Stopped by a limit, and `mask_cut_off` is set; counts in the group's mean all the same."""
    NO_TOKENS = "no_tokens"
    """The policy's server returned no token ids."""
    UNKNOWN_TOKENS = "unknown_tokens"
    """Ids that the model does not have."""
    IMPOSSIBLE_NUMBERS = "impossible_numbers"
    """Logprobs that no sampler has of what it sampled, or a reward too large to learn from: one such would end the run."""


class SampleConfig(Config):
    """Which rollouts are learned from."""

    mask_cut_off: bool = False
    """Do not learn from episodes that were stopped by a limit of turns, tokens or time."""


@dataclass(frozen=True)
class Admission:
    """What a batch of groups is checked against before it is learned from."""

    oldest_version: int = 0
    trained: frozenset[str] = frozenset()
    """Ids of groups that were learned from already."""
    vocabulary: int | None = None
    """Number of tokens of the model; None: unchecked."""
    compares: bool = True
    """Whether groups of one member, or of equal rewards, are left out."""


@dataclass(frozen=True)
class SampleSet:
    """Rows to learn from, and what became of every rollout: `rollouts == trained + sum(dropped)`."""

    samples: tuple[Sample, ...]
    rollouts: int
    trained: int
    dropped: dict[Dropped, int] = field(default_factory=dict)
    splits: int = 0
    """Turns that began a new row because their prompt did not extend the turn before."""

    @property
    def tokens(self) -> int:
        """Completion tokens of all rows: what a token-level loss is divided by."""
        return sum(sum(sample.loss_mask) for sample in self.samples)


def build_samples(
    groups: Iterable[ScoredGroup],
    advantages: Advantages,
    config: SampleConfig | None = None,
    admission: Admission | None = None,
) -> SampleSet:
    """Rows of all groups, each completion token with its sampler's logprob and its rollout's advantage.

    The advantage is computed once per rollout from the rewards of the scored members of its group.
    """
    config, admission = config or SampleConfig(), admission or Admission()
    samples: list[Sample] = []
    dropped: Counter[Dropped] = Counter()
    rollouts = trained = splits = 0
    for group in groups:
        rollouts += len(group.trajectories)
        dropped[Dropped.FAILED] += len(group.failed)
        if (reason := refusal(group, admission)) is not None:
            dropped[reason] += len(group.scored)
            continue
        for trajectory, advantage in zip(group.scored, advantages(group.rewards), strict=True):
            if advantage is None:
                dropped[Dropped.NOT_CHOSEN] += 1
                continue
            if (reason := _unusable(trajectory, config, admission)) is not None:
                dropped[reason] += 1
                continue
            rows = _rows(trajectory.turns)
            trained += 1
            splits += len(rows) - 1
            samples.extend(row.sample(group.id, trajectory.id, advantage) for row in rows)
    return SampleSet(tuple(samples), rollouts, trained, {key: n for key, n in dropped.items() if n}, splits)


def refusal(group: ScoredGroup, admission: Admission) -> Dropped | None:
    """Why nothing is learned from a whole group, or None."""
    rewards = group.rewards
    if group.id in admission.trained:
        return Dropped.ALREADY_TRAINED
    if group.policy_version < admission.oldest_version:
        return Dropped.STALE
    if max(map(abs, rewards), default=0.0) > LARGEST_REWARD:
        return Dropped.IMPOSSIBLE_NUMBERS
    if not admission.compares:
        return None
    if len(rewards) < 2:
        return Dropped.TOO_SMALL
    if max(rewards) - min(rewards) <= REWARD_TOLERANCE:
        return Dropped.ZERO_VARIANCE
    return None


def _unusable(trajectory: Trajectory, config: SampleConfig, admission: Admission) -> Dropped | None:
    if config.mask_cut_off and trajectory.stop in CUT_OFF:
        return Dropped.CUT_OFF
    if not any(turn.completion_ids for turn in trajectory.turns):
        return Dropped.NO_TOKENS
    if admission.vocabulary is not None and _largest_id(trajectory) >= admission.vocabulary:
        return Dropped.UNKNOWN_TOKENS
    logprobs = [bound for turn in trajectory.turns if turn.logprobs for bound in (min(turn.logprobs), max(turn.logprobs))]
    if min(logprobs) < LEAST_LOGPROB or max(logprobs) > MOST_LOGPROB:
        return Dropped.IMPOSSIBLE_NUMBERS
    return None


def _largest_id(trajectory: Trajectory) -> int:
    return max(max((*turn.prompt_ids, *turn.completion_ids), default=0) for turn in trajectory.turns)


@dataclass
class _Row:
    """A run of turns in which each prompt extends the turn before it."""

    policy_version: int
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def extended_by(self, turn: Turn) -> bool:
        return list(turn.prompt_ids[: len(self.token_ids)]) == self.token_ids

    def append(self, turn: Turn) -> None:
        observed = turn.prompt_ids[len(self.token_ids) :]
        self.token_ids += [*observed, *turn.completion_ids]
        self.loss_mask += [False] * len(observed) + [True] * len(turn.completion_ids)
        self.logprobs += [0.0] * len(observed) + list(turn.logprobs)
        if self.loss_mask[0]:  # a completion of no prompt: a model says nothing of the first token of a row
            self.loss_mask[0], self.logprobs[0] = False, 0.0
        self.policy_version = min(self.policy_version, turn.policy_version)

    def sample(self, group_id: str, trajectory_id: str, advantage: float) -> Sample:
        return Sample(
            group_id=group_id,
            trajectory_id=trajectory_id,
            token_ids=tuple(self.token_ids),
            loss_mask=tuple(self.loss_mask),
            logprobs=tuple(self.logprobs),
            advantages=tuple(advantage if mask else 0.0 for mask in self.loss_mask),
            policy_version=self.policy_version,
        )


def _rows(turns: Sequence[Turn]) -> list[_Row]:
    rows: list[_Row] = []
    for turn in turns:
        if not turn.completion_ids:
            continue
        if not rows or not rows[-1].extended_by(turn):
            rows.append(_Row(turn.policy_version))
        rows[-1].append(turn)
    return rows
