"""What holds for every environment that comes with natgym: gold answers earn everything, wrong ones do not."""

from collections.abc import Iterator

import pytest
from pydantic import JsonValue

from environments.attack import play_attacks
from environments.base import ENVIRONMENTS, Environment, Split
from environments.episode import Arena, run_episode
from environments.gold_policy import GoldPolicy
from tests.environments.sandboxes import any_backend

NAMES = ["gsm8k", "reverse_text", "swe", "terminal_tasks"]
PLAYED = 6


def made(name: str) -> Environment:
    return ENVIRONMENTS.load(name)()


def texts(value: JsonValue) -> Iterator[str]:
    """Every string in a value."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(inner)


@pytest.mark.parametrize("name", NAMES)
async def test_tasks_are_there_before_it_is_entered_and_a_group_gets_its_tools(name: str):
    environment = made(name)
    tasks = environment.tasks(Split.TRAIN)  # as `natgym train` reads them before anything is started
    async with environment:
        first = environment.tasks(Split.TRAIN)[0]
        assert first.id == tasks[0].id
        assert environment.of_group(tasks[0], 1).tools == first.tools


@pytest.mark.parametrize("name", NAMES)
async def test_gold_answers_earn_the_full_reward(name: str):
    async with made(name) as environment, any_backend() as backend:
        arena = Arena(environment, GoldPolicy(environment.gold), backend)
        for split in Split:
            tasks = environment.tasks(split)
            for task in tasks[:: max(1, len(tasks) // PLAYED)]:
                trajectory = await run_episode(arena, task, task.id)
                assert trajectory.reward, trajectory.failure
                assert trajectory.reward.total == 1.0, (task.id, trajectory)


@pytest.mark.parametrize("name", NAMES)
async def test_at_least_three_wrong_answers_earn_less(name: str):
    async with made(name) as environment, any_backend() as backend:
        arena = Arena(environment, GoldPolicy(environment.gold), backend)
        results = await play_attacks(arena, environment.attacks(), concurrent=4)
    assert len(results) >= 3
    assert {one.name: one.problems for one in results if one.problems} == {}
    assert all(one.at_most["total"] < 1.0 for one in results)


@pytest.mark.parametrize("name", NAMES)
async def test_tasks_are_the_same_every_time_and_no_two_share_an_id(name: str):
    async with made(name) as first, made(name) as second:
        tasks = [task for split in Split for task in first.tasks(split)]
        assert tasks == [task for split in Split for task in second.tasks(split)]
        assert all(tuple(tool.spec for tool in first.tools(task)) == task.tools for task in tasks[:3])
    assert len({task.id for task in tasks}) == len(tasks)
    assert {task.environment for task in tasks} == {name}


@pytest.mark.parametrize("name", NAMES)
async def test_what_a_policy_is_told_never_holds_the_hidden_data(name: str):
    async with made(name) as environment:
        for split in Split:
            for task in environment.tasks(split)[:PLAYED]:
                told = "\n".join(message.content for message in task.messages)
                hidden = [text for text in texts(task.data) if len(text) > 12]
                assert not [value for value in hidden if value in told]
