"""A request in words becomes a plan that can be built and checked."""

from itertools import islice

import pytest

from core.errors import BadData
from environments.nat_agent.families import FAMILIES
from environments.nat_agent.plan import Scaffold
from environments.nat_agent.planner import plan_request
from environments.nat_agent.requests import is_held_out, specs


def test_a_request_becomes_tools_in_the_order_of_its_words():
    plan = plan_request("I want an agent: count the word tiger, convert miles to kilometers.").plan
    assert [tool.name for tool in plan.custom_tools] == ["count_tiger", "miles_to_kilometers"]
    assert plan.custom_tools[1].purpose == "multiply value by 1.609"
    assert plan.custom_tools[1].input_schema["required"] == ["value"]


def test_scaffold_and_servers_are_read_from_the_request():
    plan = plan_request("An agent that plans ahead using exa: convert miles to feet.").plan
    assert plan.scaffold_type is Scaffold.REWOO
    assert [server.package for server in plan.mcp_servers] == ["exa-mcp-server"]


def test_a_request_without_a_known_tool_is_refused_with_the_phrases_that_are_known():
    with pytest.raises(BadData, match=r"recognised 0 tools.*convert \{source\} to \{target\}"):
        plan_request("Write me a poem.")


def test_units_of_different_quantities_make_no_tool():
    with pytest.raises(BadData, match="recognised 0 tools"):
        plan_request("convert miles to kilograms")


def test_a_word_that_is_no_unit_makes_no_tool():
    with pytest.raises(BadData, match="recognised 0 tools"):
        plan_request("convert import os to kilograms")


def test_the_same_request_gives_the_same_specification():
    request = "Make an agent: split walnut packs of 12 among people."
    assert plan_request(request) == plan_request(request)


def test_every_family_is_planned_and_its_example_tells_the_reference_from_its_mutants():
    seen = {key for spec in islice(specs(3, held_out=False), 200) for key in spec.plan.tool_reasoning.split("; ")}
    assert seen == {family.key for family in FAMILIES}


@pytest.mark.parametrize("held_out", [False, True])
def test_a_split_holds_only_its_own_tools_and_no_request_twice(held_out: bool):
    found = list(islice(specs(0, held_out=held_out), 150))
    assert len({spec.plan.user_request for spec in found}) == 150
    assert {is_held_out(tool.name) for spec in found for tool in spec.plan.custom_tools} == {held_out}


def test_specifications_have_one_to_three_tools():
    counts = {len(spec.plan.custom_tools) for spec in islice(specs(0, held_out=False), 100)}
    assert counts == {1, 2, 3}
