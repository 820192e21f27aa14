"""What is made of the facts that forks report; no fork is needed for that."""

from collections.abc import Mapping

import pytest

from core.types import JsonObject
from environments.nat_agent.deliverable import counted, missing
from environments.nat_agent.effort import EFFORTS, Level
from environments.nat_agent.judge_config import judge_config, judge_setup, offer_of
from environments.nat_agent.judge_tests import Outcomes, Stock, judge_tests, stock, worlds
from environments.nat_agent.judge_tools import schema_likeness
from environments.nat_agent.remembered import Remembered
from environments.nat_agent.summary import summarise
from tests.environments.nat_agent.agents import gold, spec

PASSED = {"tests/test_miles_to_km.py::test_tool": "passed", "tests/test_shout.py::test_tool": "passed"}
VALUE: JsonObject = {"properties": {"value": {"type": "number"}}, "required": ["value"]}


def test_only_the_deliverable_counts():
    strays = [
        "conftest.py",
        "tests/conftest.py",
        "nat_tools/a/b.py",
        "../nat_tools/x.py",
        "/nat_tools/x.py",
        "nat_tools/x.pth",
        ".env",
    ]
    assert counted({**gold(), **dict.fromkeys(strays, "")}) == gold()


def test_a_required_file_that_is_not_there_is_named():
    files = gold()
    del files["nat_tools/shout.py"], files["agent_config.yml"]
    assert missing(spec().plan, files) == ["nat_tools/shout.py", "agent_config.yml"]


@pytest.mark.parametrize(
    ("found", "likeness"),
    [
        (VALUE, 1.0),
        ({"properties": {"value": {"type": "number", "title": "Value"}}, "required": ["value"]}, 1.0),
        ({"properties": {"value": {"type": "number"}}}, 0.0),
        ({"properties": {"value": {"type": "string"}}, "required": ["value"]}, 0.0),
        ({"properties": {"value": {"type": "number"}, "more": {}}, "required": ["value"]}, 0.5),
        ({"properties": "x"}, 0.0),
        (None, 0.0),
    ],
)
def test_a_schema_is_compared_by_names_types_and_need(found, likeness: float):
    assert schema_likeness(VALUE, found) == likeness


def test_a_tool_under_another_name_is_still_offered():
    facts: JsonObject = {"offered": ["convert"], "functions": {"convert": "nat_tools/miles_to_km"}}
    assert offer_of(spec().plan, facts).tools == {"miles_to_km": "convert", "shout": None}


def test_a_function_of_another_package_is_not_the_planned_tool():
    facts: JsonObject = {"offered": ["shout"], "functions": {"shout": "nat.tool/shout"}}
    assert offer_of(spec().plan, facts).tools["shout"] is None


@pytest.mark.parametrize(
    "facts", [{}, {"valid": True}, {"functions": [], "groups": 3, "offered": {}, "valid": 1, "built": "yes"}]
)
def test_malformed_facts_earn_nothing(facts: JsonObject):
    scores = judge_config(spec(server=True).plan, facts, [])
    assert scores["config_builds"] == scores["config_offers"] == scores["config_strict"] == 0.0


def run(*installed: str, status: int = 0) -> JsonObject:
    return {"status": status, "installed": list(installed), "problem": ""}


@pytest.mark.parametrize(
    ("runs", "score"),
    [
        ([run("a"), run("a")], 1.0),
        ([run("a", "b"), run("a", "b")], pytest.approx(2 / 3)),
        ([run(), run()], 0.0),
        ([run("a"), run("a", status=1)], 0.5),
        ([run("a"), run("a", "b")], 0.5),
        ([run("a")], 0.0),
        ("nonsense", 0.0),
    ],
)
def test_a_setup_is_worth_what_it_installs(runs, score: float):
    assert judge_setup(["a"], {"runs": runs}, []) == score


def tools(level: Level = Level.STANDARD) -> list[Stock]:
    return stock(spec().plan.custom_tools, spec().hidden, EFFORTS[level])


class Suite:
    """Outcomes of the agent's tests on given tools: the tests of what `catches` names fail where that tool is wrong.

    `looks_at`: tool -> the tool that its tests really test.
    """

    def __init__(self, *catches: str, on_right: Outcomes = PASSED, looks_at: Mapping[str, str] | None = None) -> None:
        self._catches, self._on_right, self._looks_at = catches, on_right, looks_at or {}
        self.worlds = 0

    async def __call__(self, sources: Mapping[str, str]) -> Outcomes:
        self.worlds += 1
        right = {f"nat_tools/{tool.name}.py": tool.right for tool in tools(Level.FULL)}
        wrong = {path.removeprefix("nat_tools/")[:-3] for path, source in sources.items() if source not in right[path]}
        failed = [name for name in self._catches if self._looks_at.get(name, name) in wrong]
        return {**self._on_right, **{f"tests/test_{name}.py::test_tool": "failed" for name in failed}}


@pytest.mark.parametrize("level", [Level.STANDARD, Level.FULL])
@pytest.mark.parametrize(
    ("own", "suite", "score"),
    [
        (PASSED, Suite("miles_to_km", "shout"), 1.0),
        (PASSED, Suite("shout"), 0.5),
        (PASSED, Suite(), 0.0),
        ({}, Suite("miles_to_km", "shout"), 0.0),
        ({**PASSED, "tests/test_shout.py::test_tool": "failed"}, Suite("miles_to_km", "shout"), 0.5),
        ({**PASSED, "tests/test_shout.py::test_tool": "skipped"}, Suite("miles_to_km", "shout"), 0.5),
        (PASSED, Suite("shout", on_right={**PASSED, "tests/test_shout.py::test_more": "failed"}), 0.0),
    ],
)
async def test_tests_are_worth_the_mutants_that_they_catch(own: Outcomes, suite: Suite, score: float, level: Level):
    assert await judge_tests(tools(level), own, suite, []) == score


async def test_tests_that_fail_on_their_own_tools_are_not_tried_on_others():
    suite = Suite()
    await judge_tests(tools(), dict.fromkeys(PASSED, "failed"), suite, [])
    assert suite.worlds == 0


async def test_tests_of_one_tool_that_test_another_one_catch_nothing():
    suite = Suite("miles_to_km", "shout", looks_at={"shout": "miles_to_km"})
    assert await judge_tests(tools(Level.FULL), PASSED, suite, []) == 0.5


async def test_tests_of_a_tool_earn_no_more_than_what_of_it_is_right():
    behaviour = {"miles_to_km": 0.5, "shout": 0.0}
    assert await judge_tests(tools(), PASSED, Suite("miles_to_km", "shout"), [], behaviour) == 0.25


async def test_tests_that_fail_on_a_variant_of_the_reference_catch_nothing():
    reference = {f"nat_tools/{tool.name}.py": tool.reference for tool in spec().hidden}

    async def compares_sources(sources: Mapping[str, str]) -> Outcomes:
        return {
            test: "passed" if sources[path] == reference[path] else "failed"
            for test, path in zip(PASSED, reference, strict=True)
        }

    assert await judge_tests(tools(Level.FULL), PASSED, compares_sources, []) == 0.0


def test_two_tools_are_tried_with_six_mutants_and_a_variant_of_each_in_five_worlds():
    found = worlds(tools(Level.FULL), apart=False)
    wrong = {source for world in found for path, source in world.sources.items() if path[10:-3] in world.wrong}
    right = {source for world in found for path, source in world.sources.items() if path[10:-3] not in world.wrong}
    assert (len(found), len(wrong), len(right)) == (5, 6, 4)


def test_one_tool_is_tried_with_three_mutants_and_two_variants():
    (first, *_) = tools(Level.FULL)
    found = worlds([first], apart=False)
    assert (len(found), sum(bool(world.wrong) for world in found)) == (6, 3)


@pytest.mark.parametrize(
    ("outcomes", "errors", "text"),
    [
        ({}, {}, "no tests found"),
        ({"t::a": "passed", "t::b": "skipped"}, {}, "1 passed, 1 skipped"),
        ({"t.py::a": "failed"}, {"t.py::a": "ValueError: x\n  y"}, "1 failed: a: ValueError: x y"),
        (
            {"tests/t.py": "failed"},
            {"tests/t.py": "E in /workspace/nat_tools/a.py, /usr/lib/x.py"},
            "1 failed: t: E in nat_tools/a.py, x.py",
        ),
        ({"t::a": "failed"}, {"t::a": "<f at 0x7f00>"}, "1 failed: a: <f>"),
    ],
)
def test_a_test_run_is_told_in_one_line(outcomes: dict[str, str], errors: dict[str, str], text: str):
    assert summarise(outcomes, errors) == text


def test_a_long_error_is_cut():
    assert len(summarise({"t::a": "failed"}, {"t::a": "x" * 5000})) == 200


async def test_an_answer_is_asked_for_once_and_a_failure_again():
    asked: list[str] = []

    async def ask() -> int:
        asked.append("x")
        if len(asked) == 1:
            raise ValueError("first")
        return len(asked)

    memory: Remembered[int] = Remembered(2)
    with pytest.raises(ValueError, match="first"):
        await memory.get("k", ask)
    assert [await memory.get("k", ask), await memory.get("k", ask)] == [2, 2]


async def test_only_the_last_answers_are_kept():
    memory: Remembered[int] = Remembered(1)

    async def one() -> int:
        return 1

    async def two() -> int:
        return 2

    await memory.get("a", one)
    await memory.get("b", one)
    assert await memory.get("a", two) == 2
