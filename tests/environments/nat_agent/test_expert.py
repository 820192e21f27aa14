"""The scripted expert: right when asked for gold, wrong at the stated rates when asked for demonstrations."""

import json
from collections import Counter
from itertools import islice

import pytest

from environments.nat_agent.conversation import TOOL_SPECS, describe
from environments.nat_agent.expert import MISTAKE_RATES, Expert, Mistake, spoil
from environments.nat_agent.planner import plan_request
from environments.nat_agent.requests import specs
from tool_call_parsers.hermes import HermesParser

SPEC = plan_request("An agent using exa: convert miles to feet, count the word tiger.")


def calls(completions):
    parsed = [HermesParser().parse(text, TOOL_SPECS) for text in completions]
    assert not any(one.malformed for one in parsed)
    return [call for one in parsed for call in one.calls]


def test_gold_writes_every_file_of_the_deliverable_and_hands_it_in():
    made = calls(Expert(SPEC).completions())
    paths = [json.loads(call.arguments).get("path") for call in made]
    assert paths == [
        "nat_tools/miles_to_feet.py",
        "tests/test_miles_to_feet.py",
        "nat_tools/count_tiger.py",
        "tests/test_count_tiger.py",
        "agent_config.yml",
        "setup_mcp.sh",
        None,
    ]
    assert made[-1].name == "finish"


def test_gold_makes_no_mistake():
    expert = Expert(SPEC)
    expert.completions()
    assert expert.mistakes == []


def test_demonstrations_of_a_seed_are_the_same():
    first, second = (Expert(SPEC, rates=MISTAKE_RATES, seed=4).completions() for _ in range(2))
    assert first == second


def test_every_mistake_of_the_mix_is_made():
    made: Counter[Mistake] = Counter()
    for spec in islice(specs(9, held_out=False), 600):
        expert = Expert(spec, rates=MISTAKE_RATES)
        expert.completions()
        made.update(expert.mistakes)
    assert set(made) == set(Mistake)


@pytest.mark.parametrize(
    "mistake",
    [Mistake.NO_DESCRIPTION, Mistake.PARTIAL_HINTS, Mistake.NOT_REGISTERED, Mistake.RETURN_FOR_YIELD, Mistake.SETTING_IGNORED],
)
def test_a_spoiled_tool_is_still_python_and_not_the_reference(mistake):
    spoiled = spoil(SPEC.hidden[0].reference, mistake)
    compile(spoiled, "tool.py", "exec")
    assert spoiled != SPEC.hidden[0].reference


def test_a_tool_without_settings_loses_its_description_and_stays_python():
    spoiled = spoil(SPEC.hidden[1].reference, Mistake.NO_DESCRIPTION)
    assert "description: str" not in spoiled
    compile(spoiled, "tool.py", "exec")


def test_the_prompt_says_everything_that_the_deliverable_depends_on():
    text = describe(SPEC.plan)
    facts = ("react_agent", "miles_to_feet(value: float) -> float", "multiply value by 5280", "digits: int", "exa-mcp-server")
    for fact in facts:
        assert fact in text


def test_the_prompt_shows_nothing_hidden():
    text = describe(SPEC.plan)
    assert "round(" not in text
    assert all(mutant not in text for hidden in SPEC.hidden for mutant in hidden.mutants)
