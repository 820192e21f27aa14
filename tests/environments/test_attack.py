"""Attacks are played like answers, and held against what they may earn."""

from collections.abc import Sequence

import pytest

from core.types import Reward, Task, Turn
from environments.attack import play_attacks
from environments.base import Attack, wrong_answers
from environments.episode import Arena
from environments.gold_policy import GoldPolicy
from environments.tool_context import ToolContext
from tests.fakes import FakeBackend, Sums, call

SUMS = Sums()


class BrokenReward(Sums):
    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        raise ZeroDivisionError("verifier")


def writes(text: str, **at_most: float) -> Attack:
    """An attack that hands in that text as 1 + 1."""
    return Attack("a try", SUMS.task(1), (call("write", text=text), call("finish")), at_most)


async def played(attack: Attack, environment: Sums = SUMS) -> tuple[str, ...]:
    arena = Arena(environment, GoldPolicy(environment.gold), FakeBackend())
    (result,) = await play_attacks(arena, [attack], concurrent=2)
    return result.problems


@pytest.mark.parametrize(
    ("attack", "problems"),
    [
        pytest.param(writes("3", total=0.0), (), id="earns nothing"),
        pytest.param(writes("2", total=1.0, correct=1.0, turns=2.0), (), id="earns what it may"),
        pytest.param(writes("2", total=0.5), ("total 1.000, more than 0.500",), id="earns too much in all"),
        pytest.param(writes("2", correct=0.5), ("correct 1.000, more than 0.500",), id="earns too much of a part"),
        pytest.param(writes("2", turns=1.0), ("turns 2.000, more than 1.000",), id="earns too much of a metric"),
        pytest.param(writes("2", style=1.0), ("the reward has no figure 'style'",), id="limits what is not there"),
    ],
)
async def test_an_attack_wins_where_it_earns_more_than_it_may(attack: Attack, problems: tuple[str, ...]):
    assert await played(attack) == problems


async def test_an_attack_that_breaks_the_reward_has_won():
    (problem,) = await played(writes("3", total=1.0), BrokenReward())
    assert problem.startswith("reward: ")
    assert "verifier" in problem


async def test_attacks_are_answered_for_one_by_one_in_order():
    attacks = [Attack(str(n), SUMS.task(n), (call("write", text="8"), call("finish")), {"total": 0.0}) for n in (3, 4, 5)]
    arena = Arena(SUMS, GoldPolicy(SUMS.gold), FakeBackend())
    assert [bool(one.problems) for one in await play_attacks(arena, attacks, concurrent=3)] == [False, True, False]


def test_wrong_answers_are_attacks_on_copies_of_a_task_that_may_earn_nothing():
    offered = wrong_answers(SUMS.task(4), {"late": ("", call("finish")), "silent": ("",)})
    assert [(one.name, one.task.id, one.at_most) for one in offered] == [
        ("late", "sum-4-0", {"total": 0.0}),
        ("silent", "sum-4-1", {"total": 0.0}),
    ]


def test_an_environment_offers_no_attacks_unless_it_says_so():
    assert SUMS.attacks() == ()
