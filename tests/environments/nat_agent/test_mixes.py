"""The mixes of specifications: the small one is what the shipped policy was shown, to the character."""

import hashlib
import json
from collections import Counter
from itertools import islice

import pytest

from environments.nat_agent.environment import as_task
from environments.nat_agent.expert import MISTAKE_RATES, Expert
from environments.nat_agent.plan import AgentSpec, Scaffold
from environments.nat_agent.plan_rules import plan_problems
from environments.nat_agent.planner import ALL_FAMILIES, FilledTool, plan_request
from environments.nat_agent.requests import Mix, is_held_out, specs
from environments.nat_agent.sources import evaluate

SHOWN = "6cbb2c929f9b2eae580ce2896b313b0e8380ff4078b3af7864975e5bced190bb"


def shown(spec: AgentSpec) -> list[object]:
    """Everything of a specification that a policy reads, and what the expert says to it."""
    task = as_task(spec)
    messages = [message.model_dump(mode="json") for message in task.messages]
    tools = [tool.model_dump(mode="json") for tool in task.tools]
    return [spec.task_id, messages, tools, Expert(spec).completions(), Expert(spec, rates=MISTAKE_RATES, seed=3).completions()]


def full(held_out: bool, count: int = 200) -> list[AgentSpec]:
    return list(islice(specs(0, held_out=held_out, mix=Mix.FULL), count))


def test_the_small_mix_reads_as_the_shipped_policy_knows_it():
    told = [shown(spec) for held_out in (False, True) for spec in islice(specs(0, held_out=held_out), 60)]
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest() == SHOWN


def test_the_full_mix_asks_for_every_scaffold_and_every_family():
    found = full(held_out=False)
    assert {spec.plan.scaffold_type for spec in found} == set(Scaffold)
    assert {key for spec in found for key in spec.plan.tool_reasoning.split("; ")} == {one.key for one in ALL_FAMILIES}


@pytest.mark.parametrize("held_out", [False, True])
def test_the_full_mix_keeps_its_splits_apart(held_out: bool):
    found = full(held_out)
    assert len({spec.plan.user_request for spec in found}) == len(found)
    assert {is_held_out(tool.name) for spec in found for tool in spec.plan.custom_tools} == {held_out}


def test_every_plan_of_the_full_mix_keeps_to_the_rules():
    assert [problem for spec in full(held_out=False) for problem in plan_problems(spec.plan)] == []


def test_tools_in_a_row_take_and_give_text():
    rows = [spec.plan for spec in full(held_out=False) if spec.plan.scaffold_type is Scaffold.SEQUENTIAL]
    assert {len(plan.custom_tools) for plan in rows} == {2, 3}
    assert {tool.output_schema["type"] for plan in rows for tool in plan.custom_tools[:-1]} == {"string"}


def test_every_tool_has_at_least_three_mutants_and_a_variant():
    counts = Counter((len(tool.mutants) >= 3, len(tool.variants)) for spec in full(held_out=False) for tool in spec.hidden)
    assert set(counts) == {(True, 1)}


@pytest.mark.parametrize("family", ALL_FAMILIES, ids=lambda family: family.key)
def test_no_mutant_of_a_family_answers_its_example_rightly(family):
    spec = next(spec for spec in specs(0, held_out=False, mix=Mix.FULL) if spec.plan.tool_reasoning == family.key)
    (case,), (hidden,), (tool,) = spec.plan.test_cases, spec.hidden, spec.plan.custom_tools
    settings = {one.name: one.default for one in tool.config}
    bodies = [source.partition("        return ")[2].partition("\n")[0] for source in hidden.mutants]
    assert case.expected not in [evaluate(body, case.arguments, settings) for body in bodies]


def test_a_text_setting_takes_its_default_from_the_request():
    (tool,) = plan_request("An agent: write a pulse reading in rooms.").plan.custom_tools
    assert [(one.name, one.default) for one in tool.config] == [("digits", 3), ("unit", "rooms")]


def test_a_filled_tool_keeps_dots_out_of_its_name():
    family = next(one for one in ALL_FAMILIES if one.key == "clip")
    assert FilledTool(family, {"measure": "pulse", "low": "5", "high": "50"}).name == "pulse_kept_5_50"
