"""Toolsets compose by name; what cannot work is left out; chance is drawn once for a group."""

from collections import Counter

import pytest

from core.errors import ConfigError, UnknownName
from core.types import Message, Role, Task
from environments.base import Tool
from environments.tools.web import WebConfig
from environments.toolsets import Toolbox, ToolsConfig, Toolset, expand
from tests.fakes import LOOK, WRITE

KNOWN = {
    "a": Toolset(tools=("one",), includes=("b", "c")),
    "b": Toolset(tools=("two",), includes=("d",)),
    "c": Toolset(tools=("one", "three"), includes=("d",)),
    "d": Toolset(tools=("four",)),
    "ring": Toolset(includes=("inner",)),
    "inner": Toolset(includes=("ring",)),
}


def task_of(box: Toolbox) -> Task:
    return Task(id="t", environment="e", messages=(Message(role=Role.USER, content="go"),), tools=box.specs)


def names(task: Task) -> tuple[str, ...]:
    return tuple(spec.name for spec in task.tools)


def test_a_toolset_is_its_tools_and_those_of_what_it_includes_each_once():
    assert expand(["a"], KNOWN) == ("one", "two", "four", "three")


def test_a_ring_of_toolsets_is_named():
    with pytest.raises(ConfigError, match="toolset 'ring' includes itself: ring -> inner -> ring"):
        expand(["ring"], KNOWN)


def test_an_unknown_toolset_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownName, match="no toolset 'terminall'; did you mean 'terminal'"):
        ToolsConfig(use=("terminall",)) and expand(["terminall"], {"terminal": Toolset()})


async def test_coding_is_a_shell_and_files():
    box = await Toolbox.open(ToolsConfig(use=("coding",)))
    assert names(task_of(box)) == ("terminal", "read_file", "write_file", "patch", "search_files")
    assert all(tool.spec.description for tool in box.tools)


async def test_a_tool_that_lacks_something_is_left_out_with_the_reason():
    box = await Toolbox.open(ToolsConfig(use=("research",)))
    assert names(task_of(box)) == ("python_repl", "todo")
    assert box.left_out == dict.fromkeys(
        ("web_search", "web_extract"), "set tools.web.searxng_url to a SearXNG-compatible endpoint, or NATGYM_EXA_API_KEY"
    )


async def test_toolsets_of_the_user_and_of_the_environment_stand_beside_the_shipped_ones():
    config = ToolsConfig(use=("mine",), own={"mine": Toolset(tools=("todo",), includes=("sums",))})
    box = await Toolbox.open(config, extra={"sums": [WRITE, LOOK]})
    assert names(task_of(box)) == ("todo", "write", "look")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (ToolsConfig(use=("mine",), own={"mine": Toolset(tools=("tod",))}), "no tool 'tod'; did you mean 'todo'"),
        (ToolsConfig(own={"todo": Toolset()}), "toolset 'todo': there is one of that name"),
        (ToolsConfig(own={"sums": Toolset()}), "toolset 'sums': there is one of that name"),
    ],
)
async def test_names_that_are_unknown_or_taken_are_refused(config: ToolsConfig, problem: str):
    with pytest.raises((ConfigError, UnknownName), match=problem):
        await Toolbox.open(config, extra={"sums": [WRITE]})


async def test_what_an_environment_offers_by_itself_stays_where_only_something_else_is_set():
    web = WebConfig(searxng_url="http://127.0.0.1:1")
    assert names(task_of(await Toolbox.open(ToolsConfig(web=web), ("todo",)))) == ("todo",)
    assert names(task_of(await Toolbox.open(ToolsConfig(use=()), ("todo",)))) == ()
    assert names(task_of(await Toolbox.open(ToolsConfig(use=("web",), web=web), ("todo",)))) == ("web_search", "web_extract")


async def test_a_group_is_given_the_toolsets_that_its_seed_draws():
    box = await Toolbox.open(ToolsConfig(use=("todo",), chances={"python": 0.5, "terminal": 0.1}))
    task = task_of(box)
    drawn = [names(box.draw(task, seed)) for seed in range(400)]
    assert drawn == [names(box.draw(task, seed)) for seed in range(400)]
    counts = Counter(name for one in drawn for name in one)
    # 400 draws: 5 deviations of a binomial are 50 and 30
    assert counts["todo"] == 400
    assert abs(counts["python_repl"] - 200) < 50
    assert abs(counts["terminal"] - 40) < 30


async def test_a_group_without_certain_toolsets_is_never_left_without_any():
    box = await Toolbox.open(ToolsConfig(chances={"todo": 0.0, "python": 0.01}))
    assert {names(box.draw(task_of(box), seed)) for seed in range(50)} == {("python_repl",)}


async def test_the_tools_that_run_are_those_that_were_offered():
    box = await Toolbox.open(ToolsConfig(chances={"todo": 0.5, "python": 0.5}))
    task = box.draw(task_of(box), 1)
    ran: tuple[Tool, ...] = box.of(task)
    assert tuple(tool.spec for tool in ran) == task.tools


def test_a_chance_is_a_number_between_0_and_1():
    with pytest.raises(ValueError, match=r"todo: expected a chance between 0 and 1, found 1\.5"):
        ToolsConfig(chances={"todo": 1.5})
