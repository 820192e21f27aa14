"""The plan of one NAT agent, and the specification that it is scored against.

AgentPlan is what the coding agent is told to build. AgentSpec adds what only the verifier knows: reference
implementations, how to draw hidden inputs, variants that right tests must accept and mutants that they must catch.
"""

from enum import StrEnum
from typing import Self

from pydantic import Field, JsonValue, field_validator, model_validator

from core.types import JsonObject, Value
from environments.nat_agent.schemas import mismatch, parameters_problem, schema_problem

TAKEN_SETTINGS = ("type", "name", "description", "middleware")


class Scaffold(StrEnum):
    """The workflow types of NAT 1.9 that a plan may ask for."""

    REACT = "react_agent"
    TOOL_CALLING = "tool_calling_agent"
    REWOO = "rewoo_agent"
    ROUTER = "router_agent"
    """The LLM sends each question to one tool: `branches` in place of `tool_names`."""
    SEQUENTIAL = "sequential_executor"
    """No LLM: each tool's answer is the input of the next, in the plan's order; `tool_list` in place of `tool_names`."""


class ConfigField(Value):
    """A setting of a tool: a field of its Config class, with a default."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    type: str = Field(pattern="^(int|float|str|bool)$")
    default: JsonValue

    @model_validator(mode="after")
    def _is_free_and_fits(self) -> Self:
        if self.name in TAKEN_SETTINGS:
            raise ValueError(f"name: {self.name!r} is a field of every NAT Config")
        kinds = {"int": int, "float": int | float, "str": str, "bool": bool}
        if not isinstance(self.default, kinds[self.type]) or (isinstance(self.default, bool) and self.type != "bool"):
            raise ValueError(f"default: expected {self.type}, found {str(self.default)[:40]!r}")
        return self


class PlannedTool(Value):
    """A tool that does not exist yet and has to be written."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$", max_length=64)
    purpose: str = Field(description="what it computes, every constant included, in words that leave nothing open")
    input_schema: JsonObject = Field(description="JSON schema of type object; every property is required")
    output_schema: JsonObject = Field(description="JSON schema with a `type`")
    config: tuple[ConfigField, ...] = Field(default=(), description="settings of the tool, fields of its Config class")
    dependencies: tuple[str, ...] = Field(default=(), description="Python packages beyond the standard library")
    example_usage: str = ""

    @field_validator("input_schema")
    @classmethod
    def _takes_named_parameters(cls, schema: JsonObject) -> JsonObject:
        if problem := parameters_problem(schema):
            raise ValueError(problem)
        return schema

    @field_validator("output_schema")
    @classmethod
    def _says_what_it_returns(cls, schema: JsonObject) -> JsonObject:
        if problem := schema_problem(schema):
            raise ValueError(problem)
        return schema


class PlannedServer(Value):
    """An MCP server that the agent uses: installed by setup_mcp.sh, bound by the YAML's function_groups."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$", description="key of the function group in agent_config.yml")
    package: str = Field(
        pattern=r"^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$",
        description="what `npm install -g` installs; the same word is the command that speaks MCP on stdio",
    )
    tools: tuple[str, ...] = Field(min_length=1, description="names of the tools of it that the agent needs")


class TestCase(Value):
    """One call with a known result, for the agent's own tests."""

    __test__ = False  # not for pytest

    test_id: str
    tool: str = Field(description="name of a custom tool")
    arguments: JsonObject
    expected: JsonValue = Field(description="exactly what the call returns")


class AgentPlan(Value):
    """Everything that a coding agent is told about the NAT agent that it has to build."""

    user_request: str
    scaffold_type: Scaffold = Field(description="`_type` of the workflow")
    scaffold_reasoning: str = Field(default="", description="why this scaffold and no other")
    existing_tools: tuple[str, ...] = Field(default=(), description="functions that NAT brings along")
    mcp_servers: tuple[PlannedServer, ...] = ()
    custom_tools: tuple[PlannedTool, ...] = Field(min_length=1, max_length=8)
    tool_reasoning: str = Field(default="", description="why these tools, and why none of them existed")
    test_cases: tuple[TestCase, ...] = ()
    implementation_steps: tuple[str, ...] = ()
    yaml_config_template: str = Field(default="", description="an agent_config.yml in NAT's own sections")

    @model_validator(mode="after")
    def _names_are_distinct_and_known(self) -> Self:
        names = [one.name for one in (*self.custom_tools, *self.mcp_servers)] + list(self.existing_tools)
        if len(set(names)) != len(names):
            raise ValueError(f"two tools or servers share a name: {sorted(names)}")
        return self

    @model_validator(mode="after")
    def _test_cases_fit_their_tools(self) -> Self:
        tools = {tool.name: tool for tool in self.custom_tools}
        for number, case in enumerate(self.test_cases):
            tool = tools.get(case.tool)
            if tool is None:
                raise ValueError(
                    f"test_cases.{number}.tool: test case {case.test_id[:40]!r} names the unknown tool {case.tool[:40]!r}"
                )
            if problem := mismatch(case.arguments, tool.input_schema):
                raise ValueError(f"test_cases.{number}.arguments: {problem}")
            if problem := mismatch(case.expected, tool.output_schema):
                raise ValueError(f"test_cases.{number}.expected: {problem}")
        return self


class ArgumentKind(StrEnum):
    """How a hidden input is drawn."""

    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    CHOICE = "choice"
    NUMBERS = "numbers"
    WORDS = "words"


class ArgumentRecipe(Value):
    """Draws one argument: an integer or number in [low, high], a choice, a text or list of 1 to `length` items."""

    kind: ArgumentKind
    low: float = 0
    high: float = 100
    digits: int = 1
    """Decimal places of a number."""
    choices: tuple[str, ...] = ()
    """What CHOICE picks from; the words that TEXT and WORDS are made of."""
    length: int = Field(default=6, ge=1)

    @model_validator(mode="after")
    def _has_something_to_draw(self) -> Self:
        if self.kind in (ArgumentKind.CHOICE, ArgumentKind.TEXT, ArgumentKind.WORDS) and not self.choices:
            raise ValueError(f"choices: kind {self.kind.value!r} needs at least one")
        if self.low > self.high:
            raise ValueError(f"low: {self.low:g} is above high, {self.high:g}")
        return self


class HiddenTool(Value):
    """What the verifier knows of one planned tool."""

    name: str
    reference: str
    """Source of a correct `nat_tools/<name>.py`."""
    inputs: dict[str, ArgumentRecipe]
    mutants: tuple[str, ...] = Field(min_length=1)
    """Sources like `reference` that behave differently on the plan's test cases."""
    variants: tuple[str, ...] = ()
    """Sources that are written differently and behave as `reference` does: tests that fail on them test the wrong thing."""

    @model_validator(mode="after")
    def _mutants_differ(self) -> Self:
        if self.reference in self.mutants:
            raise ValueError(f"mutants.{self.mutants.index(self.reference)}: is the reference itself")
        return self


class AgentSpec(Value):
    """One row of the dataset."""

    task_id: str = Field(min_length=1)
    plan: AgentPlan
    hidden: tuple[HiddenTool, ...]

    @model_validator(mode="after")
    def _one_hidden_part_per_tool(self) -> Self:
        planned = [tool.name for tool in self.plan.custom_tools]
        if [tool.name for tool in self.hidden] != planned:
            raise ValueError(f"hidden tools {[tool.name for tool in self.hidden]} do not match the plan's {planned}")
        for number, (tool, hidden) in enumerate(zip(self.plan.custom_tools, self.hidden, strict=True)):
            wanted = tool.input_schema["properties"]
            if isinstance(wanted, dict) and set(hidden.inputs) != set(wanted):
                raise ValueError(f"hidden.{number}.inputs: expected {', '.join(wanted)}, found {', '.join(hidden.inputs)}")
        untested = set(planned) - {case.tool for case in self.plan.test_cases}
        if untested:
            raise ValueError(f"plan.test_cases: no test case for {sorted(untested)[0]!r}")
        return self
