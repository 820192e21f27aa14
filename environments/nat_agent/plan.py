"""The plan of one NAT agent, and the specification that it is scored against.

AgentPlan is what the coding agent is told to build. AgentSpec adds what only the verifier knows: reference
implementations, how to draw hidden inputs, and mutants that the agent's own tests must catch.
"""

from enum import StrEnum
from typing import Self

from pydantic import Field, JsonValue, model_validator

from core.types import JsonObject, Value


class Scaffold(StrEnum):
    """The workflow types of NAT 1.9 that a plan may ask for."""

    REACT = "react_agent"
    TOOL_CALLING = "tool_calling_agent"
    REWOO = "rewoo_agent"


class ConfigField(Value):
    """A setting of a tool: a field of its Config class, with a default."""

    name: str
    type: str = Field(pattern="^(int|float|str|bool)$")
    default: JsonValue


class PlannedTool(Value):
    """A tool that does not exist yet and has to be written."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    purpose: str
    input_schema: JsonObject
    """JSON schema of type object; every property is required."""
    output_schema: JsonObject
    """JSON schema with a `type`."""
    config: tuple[ConfigField, ...] = ()
    dependencies: tuple[str, ...] = ()
    example_usage: str = ""


class PlannedServer(Value):
    """An MCP server that the agent uses: installed by setup_mcp.sh, bound by the YAML's function_groups."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    """Key of the function group in agent_config.yml."""
    package: str
    """What `npm install -g` installs; the same word is the command that speaks MCP on stdio."""
    tools: tuple[str, ...]
    """Names of the tools that it offers."""


class TestCase(Value):
    """One call with a known result, for the agent's own tests."""

    __test__ = False  # not for pytest

    test_id: str
    tool: str
    arguments: JsonObject
    expected: JsonValue


class AgentPlan(Value):
    """Everything that a coding agent is told about the NAT agent that it has to build."""

    user_request: str
    scaffold_type: Scaffold
    scaffold_reasoning: str = ""
    existing_tools: tuple[str, ...] = ()
    mcp_servers: tuple[PlannedServer, ...] = ()
    custom_tools: tuple[PlannedTool, ...] = Field(min_length=1)
    tool_reasoning: str = ""
    test_cases: tuple[TestCase, ...] = ()
    implementation_steps: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_are_distinct_and_known(self) -> Self:
        names = [tool.name for tool in self.custom_tools] + [server.name for server in self.mcp_servers]
        if len(set(names)) != len(names):
            raise ValueError(f"two tools or servers share a name: {sorted(names)}")
        for case in self.test_cases:
            if case.tool not in names:
                raise ValueError(f"test case {case.test_id!r} names the unknown tool {case.tool!r}")
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


class HiddenTool(Value):
    """What the verifier knows of one planned tool."""

    name: str
    reference: str
    """Source of a correct `nat_tools/<name>.py`."""
    inputs: dict[str, ArgumentRecipe]
    mutants: tuple[str, ...] = Field(min_length=1)
    """Sources like `reference` that behave differently on the plan's test cases."""


class AgentSpec(Value):
    """One row of the dataset."""

    task_id: str
    plan: AgentPlan
    hidden: tuple[HiddenTool, ...]

    @model_validator(mode="after")
    def _one_hidden_part_per_tool(self) -> Self:
        planned = [tool.name for tool in self.plan.custom_tools]
        if [tool.name for tool in self.hidden] != planned:
            raise ValueError(f"hidden tools {[tool.name for tool in self.hidden]} do not match the plan's {planned}")
        return self
