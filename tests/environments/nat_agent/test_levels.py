"""How thorough a verdict is, on the real NAT: every scaffold, and what only the full level finds out."""

import json

import pytest

from core.errors import RewardError
from environments.nat_agent.conversation import TOOL_SPECS
from environments.nat_agent.effort import Level
from environments.nat_agent.evaluator import NatEvaluator
from environments.nat_agent.expert import Expert
from environments.nat_agent.plan import AgentSpec, Scaffold
from environments.nat_agent.planner import plan_request
from tests.environments.nat_agent.agents import config, gold, miles, spec
from tool_call_parsers.hermes import HermesParser

pytestmark = [pytest.mark.nat, pytest.mark.asyncio(loop_scope="session")]

LOOP = {"scenario", "scenario_repeat", "scenario_chain", "scenario_recovery", "tests"}


def expert_files(planned: AgentSpec) -> dict[str, str]:
    """What the scripted expert leaves behind."""
    parsed = [HermesParser().parse(text, TOOL_SPECS) for text in Expert(planned).completions()]
    written = [json.loads(call.arguments) for one in parsed for call in one.calls if call.name == "write_file"]
    return {one["path"]: one["content"] for one in written}


@pytest.mark.parametrize(
    ("request_text", "tried"),
    [
        ("An agent that thinks aloud using exa: convert miles to feet, count the word tiger.", LOOP),
        ("An agent that calls tools natively: convert miles to feet, replace apple with bread.", LOOP),
        ("An agent that plans ahead using exa: convert miles to feet, replace apple with bread.", LOOP),
        (
            "An agent that routes each question to one tool: replace apple with bread, count the word tiger.",
            LOOP - {"scenario_chain"},
        ),
        (
            "An agent that runs its tools in a row: replace apple with bread, count the word bread.",
            LOOP - {"scenario_chain"},
        ),
    ],
    ids=["react", "tool_calling", "rewoo", "router", "sequential"],
)
async def test_the_experts_agent_of_every_scaffold_is_complete(evaluator: NatEvaluator, request_text: str, tried: set[str]):
    planned = plan_request(request_text)
    evaluation = await evaluator.evaluate(planned, expert_files(planned), Level.FULL)
    assert evaluation.problems == ()
    assert set(evaluation.parts.values()) == {1.0}
    assert {name for name in evaluation.parts if name in LOOP} == tried


async def lost(evaluator: NatEvaluator, changed: dict[str, str], scaffold: Scaffold = Scaffold.REACT) -> set[str]:
    """The sub-scores that these changes of the gold files cost something at the full level."""
    evaluation = await evaluator.evaluate(spec(scaffold), {**gold(scaffold), **changed}, Level.FULL)
    return {name for name, score in evaluation.parts.items() if score < 1.0}


async def test_a_tool_that_answers_only_once_is_found_by_the_second_run(evaluator: NatEvaluator):
    source = miles("round(value * 1.609, config.digits) if value not in seen and not seen.add(value) else 0.0")
    source = source.replace("    async def run(", "    seen = set()\n\n    async def run(")
    assert {"scenario_repeat"} <= await lost(evaluator, {"nat_tools/miles_to_km.py": source})


@pytest.mark.parametrize(
    ("scaffold", "setting"),
    [(Scaffold.REACT, "pass_tool_call_errors_to_agent: false"), (Scaffold.TOOL_CALLING, "handle_tool_errors: false")],
)
async def test_an_agent_that_ends_at_a_tool_error_does_not_recover(evaluator: NatEvaluator, scaffold: Scaffold, setting: str):
    text = config(scaffold).replace("llm_name: main,", f"llm_name: main, {setting},")
    assert await lost(evaluator, {"agent_config.yml": text}, scaffold) == {"scenario_recovery"}


async def test_the_quick_level_does_not_try_the_tests(evaluator: NatEvaluator):
    files = {name: text for name, text in gold().items() if not name.startswith("tests/")}
    evaluation = await evaluator.evaluate(spec(), files, Level.QUICK)
    assert evaluation.complete
    assert "tests" not in evaluation.parts


async def test_a_plan_whose_tools_cannot_stand_in_its_scaffold_is_no_score(evaluator: NatEvaluator):
    with pytest.raises(RewardError, match="miles_to_km must take one string"):
        await evaluator.evaluate(spec(Scaffold.ROUTER), gold(Scaffold.ROUTER))
