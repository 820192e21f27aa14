"""Plays the attacks of an environment, as any policy would, and says which of them earn more than they may."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from core.types import Reward, Trajectory, Value
from environments.base import Attack
from environments.episode import Arena, run_episode
from environments.gold_policy import GoldPolicy

TOTAL = "total"
ROUNDING = 1e-9  # limits and rewards are sums of a few products


class AttackResult(Value):
    """What one attack came to."""

    name: str
    found: dict[str, float]
    """The figures that are limited."""
    at_most: dict[str, float]
    problems: tuple[str, ...]
    """Why it counts as won; empty where the reward held."""


async def play_attacks(
    arena: Arena, attacks: Sequence[Attack], concurrent: int, on_end: Callable[[Trajectory], None] = lambda trajectory: None
) -> list[AttackResult]:
    """The results, in order. An attack that makes the reward fail has won too: its author is never told that it is bad."""
    scripts = {one.task.id: one.completions for one in attacks}
    stage, free = replace(arena, policy=GoldPolicy(lambda task: scripts[task.id])), asyncio.Semaphore(concurrent)

    async def play(attack: Attack) -> AttackResult:
        async with free:
            trajectory = await run_episode(stage, attack.task, attack.task.id)
        on_end(trajectory)
        return result_of(attack, trajectory)

    async with asyncio.TaskGroup() as owner:
        playing = [owner.create_task(play(attack)) for attack in attacks]
    return [one.result() for one in playing]


def result_of(attack: Attack, trajectory: Trajectory) -> AttackResult:
    """What the end of an episode says of the attack that was played in it."""
    found = {name: value for name in attack.at_most if (value := _figure(trajectory.reward, name)) is not None}
    problems = [
        f"{name} {value:.3f}, more than {attack.at_most[name]:.3f}"
        for name, value in found.items()
        if value > attack.at_most[name] + ROUNDING
    ]
    if trajectory.failure is not None:
        problems.append(f"{trajectory.failure.boundary}: {trajectory.failure.message}")
    else:
        problems += [f"the reward has no figure {name!r}" for name in attack.at_most if name not in found]
    return AttackResult(name=attack.name, found=found, at_most=dict(attack.at_most), problems=tuple(problems))


def _figure(reward: Reward | None, name: str) -> float | None:
    if reward is None or name == TOTAL:
        return reward.total if reward else None
    return reward.metrics.get(name, reward.parts.get(name))
