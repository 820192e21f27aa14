"""A plan that is not valid is refused with the field."""

from copy import deepcopy

import pytest
from pydantic import ValidationError

from environments.nat_agent.plan import AgentPlan, AgentSpec, ConfigField, HiddenTool
from environments.nat_agent.plan_rules import plan_problems
from environments.nat_agent.planner import plan_request
from environments.nat_agent.schemas import mismatch, schema_problem

SPEC = plan_request("An agent using exa: convert miles to feet, count the word tiger.")
PLAN = SPEC.plan.model_dump(mode="json")


def changed(*path: str | int, to: object) -> dict:
    """The plan with one value changed."""
    plan = deepcopy(PLAN)
    inner = plan
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = to
    return plan


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (changed("scaffold_type", to="dream_agent"), "scaffold_type"),
        (changed("custom_tools", to=[]), "custom_tools"),
        (changed("custom_tools", 0, "name", to="Miles To Feet"), "custom_tools.0.name"),
        (changed("custom_tools", 0, "input_schema", "type", to="array"), "custom_tools.0.input_schema"),
        (changed("custom_tools", 0, "input_schema", "required", to=[]), "'value' is not listed"),
        (changed("custom_tools", 0, "output_schema", to={}), "custom_tools.0.output_schema"),
        (changed("custom_tools", 0, "output_schema", to={"$ref": "http://127.0.0.1/"}), "unknown keyword"),
        (changed("custom_tools", 0, "config", 0, "default", to="two"), "default: expected int, found 'two'"),
        (changed("custom_tools", 0, "config", 0, "name", to="description"), "is a field of every NAT Config"),
        (changed("mcp_servers", 0, "package", to="x; rm -rf /"), "mcp_servers.0.package"),
        (changed("test_cases", 0, "arguments", to={"value": "far"}), "test_cases.0.arguments: value: expected number"),
        (changed("test_cases", 0, "expected", to=True), "test_cases.0.expected: expected number"),
        (changed("test_cases", 1, "tool", to="nobody"), "test_cases.1.tool"),
        (changed("existing_tools", to=["count_tiger"]), "share a name"),
        ({**PLAN, "llm": "x"}, "llm"),
    ],
)
def test_a_wrong_field_is_named(plan: dict, problem: str):
    with pytest.raises(ValidationError) as refused:
        AgentPlan.model_validate(plan)
    first = refused.value.errors()[0]
    assert problem in f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (changed("mcp_servers", 0, "name", to="exb"), "mcp_servers.0: no server 'exb'"),
        (changed("mcp_servers", 0, "tools", to=["search"]), "mcp_servers.0.tools: exa has no tool 'search'"),
        (changed("existing_tools", to=["current_date"]), "existing_tools.0: NAT brings no 'current_date' along; did you mean"),
        (changed("test_cases", to=PLAN["test_cases"][:1]), "test_cases: none for custom_tools.1"),
        (changed("scaffold_type", to="router_agent"), "mcp_servers: router_agent"),
        (
            {**changed("scaffold_type", to="sequential_executor"), "mcp_servers": []},
            "custom_tools.0.input_schema: a tool of sequential_executor takes one text, found number",
        ),
    ],
)
def test_what_does_not_exist_or_cannot_run_is_named(plan: dict, problem: str):
    assert any(found.startswith(problem) for found in plan_problems(AgentPlan.model_validate(plan)))


def test_a_plan_reads_back_as_it_was_written():
    assert AgentPlan.model_validate_json(SPEC.plan.model_dump_json()) == SPEC.plan


def test_a_plan_describes_itself_as_a_json_schema():
    schema = AgentPlan.model_json_schema()
    assert set(PLAN) == set(schema["properties"])


def test_a_mutant_that_is_the_reference_is_refused():
    hidden = SPEC.hidden[0].model_dump()
    with pytest.raises(ValidationError, match=r"mutants\.0: is the reference itself"):
        HiddenTool.model_validate({**hidden, "mutants": [hidden["reference"]]})


def test_hidden_inputs_have_to_be_the_tools_parameters():
    data = SPEC.model_dump(mode="json")
    data["hidden"][0]["inputs"]["weight"] = data["hidden"][0]["inputs"].pop("value")
    with pytest.raises(ValidationError, match=r"hidden\.0\.inputs: expected value, found weight"):
        AgentSpec.model_validate(data)


def test_a_setting_of_each_type_takes_its_default():
    for kind, default in (("int", 2), ("float", 2), ("float", 0.5), ("str", "x"), ("bool", False)):
        assert ConfigField(name="x", type=kind, default=default).default == default


@pytest.mark.parametrize(
    ("value", "schema", "problem"),
    [
        (True, {"type": "integer"}, "expected integer, found 'True'"),
        (1.0, {"type": "integer"}, "expected integer, found '1.0'"),
        (3, {"type": "number"}, None),
        ([1, "x"], {"type": "array", "items": {"type": "number"}}, "1: expected number, found 'x'"),
        ({"a": 1}, {"type": "object", "additionalProperties": {"type": "string"}}, "a: expected string, found '1'"),
        ("c", {"type": "string", "enum": ["a", "b"]}, "expected one of ['a', 'b'], found 'c'"),
        (None, {"type": "null"}, None),
    ],
)
def test_values_are_checked_by_type(value, schema, problem):
    assert mismatch(value, schema) == problem


def test_a_schema_without_an_end_is_refused():
    schema = {"type": "string"}
    for _ in range(2000):
        schema = {"type": "array", "items": schema}
    assert "nested more than 8 deep" in str(schema_problem(schema))
