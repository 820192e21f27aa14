"""`natgym check` on environments that hold, and on ones that do not."""

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest

from core.config import Config
from core.types import Reward, Task, Turn
from environments.base import Attack
from environments.tool_context import ToolContext
from tests.fakes import Sums, call
from tests.services.small_policy import natgym


class Guarded(Sums):
    """Sums, with an attack that has no chance."""

    config_type = Config
    check_settings: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Config) -> None:
        super().__init__()

    def attacks(self) -> Sequence[Attack]:
        return [Attack("a wrong number", self.task(50), (call("write", text="1"), call("finish")), {"total": 0.0})]


class Credulous(Guarded):
    """Believes every number."""

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        return Reward.of(correct=1.0)


class Mean(Guarded):
    """Believes none."""

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        return Reward.of(correct=0.0)


def check(environment: str, *flags: str) -> tuple[int, str]:
    """Exit code and standard output."""
    done = natgym(
        "check", f"tests.services.test_check:{environment}", *flags, "--set", "rollouts.backend=tests.fakes:FakeBackend"
    )
    return done.returncode, done.stdout or done.stderr


def test_an_environment_that_holds_is_a_table_and_exit_code_0():
    code, text = check("Guarded")
    assert code == 0, text
    assert "a wrong number" in text
    assert "12 of 12 gold answers succeed   1 of 1 attacks earn no more" in text


@pytest.mark.parametrize(
    ("environment", "problem"),
    [("Credulous", "a wrong number: total 1.000, more than 0.000"), ("Mean", "train sum-0: reward {'correct': 0.0}")],
)
def test_one_that_does_not_is_told_with_exit_code_1(environment: str, problem: str):
    code, text = check(environment)
    assert code == 1
    assert f"  {problem}\n" in text


def test_the_same_facts_come_as_json():
    code, text = check("Credulous", "--json", "--limit", "2")
    facts = json.loads(text)
    assert code == 1
    assert facts["tasks"] == {"train": 2, "held_out": 2}
    assert facts["won"] == ["a wrong number: total 1.000, more than 0.000"]


def test_attacks_can_be_left_out():
    code, text = check("Credulous", "--no-attacks", "--json")
    assert (code, json.loads(text)["attacks"]) == (0, [])
