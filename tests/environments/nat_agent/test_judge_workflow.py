"""What is made of the answers of a workflow; no workflow is needed for that."""

import pytest
from pydantic import JsonValue

from environments.nat_agent.judge_workflow import Kind, Run, judge_workflow
from environments.nat_agent.transcript import Manner, Script, Step
from tests.environments.nat_agent.agents import spec

PLAN = spec().plan
MILES = Step("miles_to_km", {"value": 10.0}, 16.09, {"type": "number"})
SHOUT = Step("shout", {"text": "hi"}, "HI!", {"type": "string"})


async def routed(step: Step, kind: Kind = Kind.ALL) -> Run:
    """A run of a router whose LLM was asked once."""
    run = Run(kind, "hi", Script([step], Manner.ROUTE))
    await run.script.answer({})
    return run


async def test_each_right_answer_is_a_share():
    runs = [await routed(MILES), await routed(SHOUT)]
    scores, _ = judge_workflow(PLAN, [Kind.ALL], runs, [{"answer": "16.09"}, {"answer": "hi"}], [])
    assert scores == {"scenario": 0.5}


async def test_a_tool_that_is_not_offered_is_missed():
    scores, _ = judge_workflow(PLAN, [Kind.ALL], [await routed(MILES)], [{"answer": "16.09"}], [])
    assert scores == {"scenario": 0.5}


async def test_a_second_run_earns_no_more_than_the_first():
    runs = [await routed(step, kind) for kind in (Kind.ALL, Kind.REPEAT) for step in (MILES, SHOUT)]
    answers: JsonValue = [{"answer": "1"}, {"answer": "HI!"}, {"answer": "16.09"}, {"answer": "HI!"}]
    scores, _ = judge_workflow(PLAN, [Kind.ALL, Kind.REPEAT], runs, answers, [])
    assert scores == {"scenario": 0.5, "scenario_repeat": 0.5}


async def test_a_run_that_is_meant_to_fail_is_not_judged():
    runs = [(await routed(MILES, Kind.RECOVERY))._replace(counts=False), await routed(SHOUT, Kind.RECOVERY)]
    scores, _ = judge_workflow(PLAN, [Kind.RECOVERY], runs, [{"error": "no"}, {"answer": "HI!"}], [])
    assert scores == {"scenario_recovery": 1.0}


async def test_a_scenario_without_a_run_earns_nothing():
    assert judge_workflow(PLAN, [Kind.CHAIN], [], [], []) == ({"scenario_chain": 0.0}, 0.0)


@pytest.mark.parametrize("answers", [None, "x", {}, [None], [3, 4, 5], [{"answer": 16.09}], [[], {"answer": {}}]])
async def test_malformed_answers_earn_nothing(answers: JsonValue):
    runs = [await routed(MILES), await routed(SHOUT)]
    assert judge_workflow(PLAN, [Kind.ALL], runs, answers, [])[0] == {"scenario": 0.0}


async def test_an_error_is_told_where_something_is_wrong():
    problems: list[str] = []
    judge_workflow(PLAN, [Kind.ALL], [await routed(MILES)], [{"error": "ValueError: no"}], problems)
    assert problems == [
        "workflow: miles_to_km does not come back with the right value (scenario)",
        "workflow: ValueError: no",
    ]
