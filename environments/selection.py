"""Which episodes of a group are worth learning from, and why the others were left out."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from pydantic import Field

from core.config import Config
from core.types import Role, ScoredGroup, Trajectory


class Selection(Config):
    """What an episode has to be in order to be kept; lost episodes never are."""

    min_reward: float = 0.0
    """Total that it has to reach."""
    top: int | None = Field(default=None, gt=0)
    """The best so many of a group, after all other conditions."""
    max_malformed: int | None = Field(default=None, ge=0)
    """Tool calls of it that could not be used."""
    max_mistakes: int | None = Field(default=None, ge=0)
    """Tool calls of it with which a tool was used wrongly."""
    max_turns: int | None = Field(default=None, gt=0)
    max_characters: int | None = Field(default=None, gt=0)
    """Of all that was said and observed, the task included."""
    unique: bool = False
    """Of episodes of a task in which the policy said the same, the first of the file alone."""


@dataclass
class Selected:
    """Episodes that were kept, in order of the group, and how many were left out by the first condition they missed."""

    kept: list[Trajectory] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    """Of what was kept, where `unique` asks for them."""

    def leave_out(self, reason: str) -> None:
        """Count one."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def select(group: ScoredGroup, wanted: Selection, seen: Collection[str] = ()) -> Selected:
    """What is kept of a group; `seen` are the digests of what was kept before."""
    found = Selected()
    for one in sorted(group.scored, key=_total, reverse=True):  # stable: the best first, so that `top` is a prefix
        reason = next((name for name, misses in CONDITIONS.items() if misses(group, one, wanted)), None)
        digest = digest_of(group, one) if wanted.unique else ""
        if reason is None and wanted.unique and (digest in seen or digest in found.digests):
            reason = "duplicate"
        if reason is None and wanted.top is not None and len(found.kept) >= wanted.top:
            reason = "top"
        if reason is not None:
            found.leave_out(reason)
            continue
        found.kept.append(one)
        found.digests += [digest] if wanted.unique else []
    order = [one.id for one in group.trajectories]
    found.kept.sort(key=lambda one: order.index(one.id))
    return found


def digest_of(group: ScoredGroup, trajectory: Trajectory) -> str:
    """Equal for episodes of a task in which the policy said the same; 16 hexadecimal digits."""
    spoken = [turn.message for turn in trajectory.turns]
    said = [(one.content, [(call.name, call.arguments) for call in one.tool_calls]) for one in spoken]
    return hashlib.sha256(repr((group.task.id, said)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _total(trajectory: Trajectory) -> float:
    return trajectory.reward.total if trajectory.reward else 0.0


def _characters(group: ScoredGroup, trajectory: Trajectory) -> int:
    messages = list(group.task.messages)
    for turn in trajectory.turns:
        messages += [turn.message, *turn.observations]
    spoken = sum(len(one.content) + len(one.reasoning or "") for one in messages)
    return spoken + sum(len(call.arguments) for one in messages if one.role is Role.ASSISTANT for call in one.tool_calls)


def _above(value: int, limit: int | None) -> bool:
    return limit is not None and value > limit


CONDITIONS: dict[str, Callable[[ScoredGroup, Trajectory, Selection], bool]] = {
    "min_reward": lambda group, one, wanted: _total(one) < wanted.min_reward,
    "max_malformed": lambda group, one, wanted: _above(sum(turn.malformed for turn in one.turns), wanted.max_malformed),
    "max_mistakes": lambda group, one, wanted: _above(sum(turn.mistakes for turn in one.turns), wanted.max_mistakes),
    "max_turns": lambda group, one, wanted: _above(len(one.turns), wanted.max_turns),
    "max_characters": lambda group, one, wanted: _above(_characters(group, one), wanted.max_characters),
}
