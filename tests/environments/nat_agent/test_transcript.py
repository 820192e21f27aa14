"""The scripted LLM, without a workflow around it."""

import json

import pytest

from core.types import JsonObject
from environments.nat_agent.transcript import Manner, Script, Step, manner_of

STEPS = [
    Step("miles", {"value": 10.0}, 16.09, {"type": "number"}),
    Step("fin__quote", {"key": "ab"}, "c0ffee", {"type": "string"}, server="fin"),
]
PLAN_EVIDENCE = (
    "Plan: call miles\n#E1 = miles[{{'value': 10.0}}\nResult: {}\n\n"
    "Plan: call fin__quote\n#E2 = fin__quote[{{'key': 'ab'}}\nResult: {}\n\n"
)


def told(*contents: str) -> JsonObject:
    return {"messages": [{"role": "tool", "content": content} for content in contents]}


async def play(script: Script, *observations: str) -> str:
    """Answer the opening question and each observation; the last thing that the LLM says."""
    answer = await script.answer(told("question"))
    for observation in observations:
        answer = await script.answer(told("question", observation))
    return str(answer["content"])


@pytest.mark.parametrize("manner", [Manner.TEXT, Manner.NATIVE])
async def test_each_step_is_called_and_the_last_turn_answers(manner: Manner):
    script = Script(STEPS, manner)
    final = await play(script, "16.09", "c0ffee")
    assert script.right() == [True, True]
    assert script.answered(final)


async def test_a_text_agent_gets_action_lines():
    assert "Action: miles\nAction Input: " in await play(Script(STEPS, Manner.TEXT))


async def test_a_native_agent_gets_tool_calls():
    answer = await Script(STEPS, Manner.NATIVE).answer(told("question"))
    assert answer["tool_calls"] == [{"name": "miles", "args": {"value": 10.0}, "id": "call_0"}]


async def test_a_planner_gets_all_calls_and_its_evidence_is_read():
    script = Script(STEPS, Manner.PLAN)
    planned = json.loads(await play(script))
    final = await script.answer(told(PLAN_EVIDENCE.format("16.09", "c0ffee")))
    assert [one["evidence"]["tool"] for one in planned] == ["miles", "fin__quote"]
    assert script.right() == [True, True]
    assert script.answered(str(final["content"]))


async def test_evidence_in_the_wrong_place_is_not_right():
    script = Script(STEPS, Manner.PLAN)
    await play(script)
    await script.answer(told(PLAN_EVIDENCE.format("c0ffee", "16.09")))
    assert script.right() == [False, False]


async def test_a_wrong_observation_fails_its_step_only():
    script = Script(STEPS, Manner.TEXT)
    await play(script, "16.08", "c0ffee")
    assert script.right() == [False, True]


async def test_an_answer_without_the_last_turn_is_none():
    script = Script(STEPS, Manner.TEXT)
    await play(script, "16.09")
    assert not script.answered(f"done {script.nonce}")


async def test_asking_once_more_than_the_script_has_turns_is_no_answer():
    script = Script(STEPS, Manner.TEXT)
    final = await play(script, "16.09", "c0ffee", "again")
    assert not script.answered(final)


@pytest.mark.parametrize("question", [{}, {"messages": "x"}, {"messages": [1]}, {"messages": [{"content": 3}]}])
async def test_a_malformed_question_is_answered_and_earns_nothing(question: JsonObject):
    script = Script(STEPS, Manner.TEXT)
    for _ in range(4):
        await script.answer(question)
    assert script.right() == [False, False]


@pytest.mark.parametrize(
    ("facts", "manner"),
    [
        ({"workflow": "nat.plugins.langchain.agent.react_agent/react_agent"}, Manner.TEXT),
        ({"workflow": "x/react_agent", "native_tools": True}, Manner.NATIVE),
        ({"workflow": "x/tool_calling_agent"}, Manner.NATIVE),
        ({"workflow": "x/rewoo_agent"}, Manner.PLAN),
        ({"workflow": "x/router_agent"}, Manner.ROUTE),
        ({"workflow": "x/sequential_executor"}, Manner.PIPE),
        ({}, Manner.TEXT),
    ],
)
def test_the_manner_follows_the_workflow(facts: JsonObject, manner: Manner):
    assert manner_of(facts) is manner


async def test_a_router_names_one_branch_and_the_answer_is_the_tools_own():
    script = Script(STEPS[:1], Manner.ROUTE)
    assert await play(script) == "miles"
    assert (script.right("16.09"), script.points("16.09"), script.points("16.08")) == ([True], (1, 1), (0, 1))


async def test_a_router_that_never_asked_its_llm_has_no_answer():
    assert not Script(STEPS[:1], Manner.ROUTE).answered("16.09")


async def test_a_stumbling_router_first_names_nothing():
    script = Script(STEPS[:1], Manner.ROUTE, stumbles=True)
    first = await play(script)
    assert "miles" not in first
    assert await play(script) == "miles"
    assert script.answered("16.09")


def test_a_pipe_is_right_where_its_last_answer_is():
    script = Script(STEPS, Manner.PIPE)
    assert (script.points("c0ffee"), script.points("16.09"), script.right("c0ffee")) == ((1, 1), (0, 1), [True, True])


async def test_a_planner_refers_to_the_answers_that_it_has_not_seen():
    fed = STEPS[1]._replace(arguments={"key": "16.09"}, feeds={"key": 0})
    planned = json.loads(await play(Script([STEPS[0], fed], Manner.PLAN)))
    assert [one["evidence"]["tool_input"] for one in planned] == [{"value": 10.0}, {"key": "#E1"}]


async def test_a_call_that_cannot_work_earns_nothing_and_costs_nothing():
    script = Script([STEPS[0]._replace(arguments={}, mistaken=True), STEPS[0]], Manner.NATIVE)
    final = await play(script, "Error: a value is missing", "16.09")
    assert script.points(final) == (2, 2)
