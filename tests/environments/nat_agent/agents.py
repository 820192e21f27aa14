"""A small specification, the files of an agent that fulfils it, and ways to spoil them."""

from environments.nat_agent.plan import (
    AgentPlan,
    AgentSpec,
    ArgumentKind,
    ArgumentRecipe,
    ConfigField,
    HiddenTool,
    PlannedServer,
    PlannedTool,
    Scaffold,
    TestCase,
)

TOOL = """from nat.plugin_api import Builder, FunctionBaseConfig, FunctionInfo, register_function


class ToolConfig(FunctionBaseConfig, name="{name}"):
    description: str = "{name}"
{settings}

@register_function(config_type=ToolConfig)
async def build(config: ToolConfig, builder: Builder):
    async def run({parameter}) -> {returns}:
        return {body}

    yield FunctionInfo.from_fn(run, description=config.description)
"""
TEST = """import pytest
from nat.builder.workflow_builder import WorkflowBuilder

from nat_tools.{name} import ToolConfig


@pytest.mark.asyncio
async def test_tool():
    async with WorkflowBuilder() as builder:
        tool = await builder.add_function("tool", ToolConfig())
        assert await tool.acall_invoke({arguments}) == {expected}
"""
SERVER = PlannedServer(name="yahoo", package="yahoo-finance-mcp", tools=("get_quote", "get_news"))


def miles(body: str) -> str:
    """A converter with that body."""
    return TOOL.format(
        name="miles_to_km", settings="    digits: int = 2\n", parameter="value: float", returns="float", body=body
    )


def shout(body: str) -> str:
    """A text tool with that body."""
    return TOOL.format(name="shout", settings="", parameter="text: str", returns="str", body=body)


def spec(scaffold: Scaffold = Scaffold.REACT, *, server: bool = False) -> AgentSpec:
    """Two tools, and one MCP server where asked for."""
    number, text = {"type": "number"}, {"type": "string"}
    plan = AgentPlan(
        user_request="convert miles to km and shout",
        scaffold_type=scaffold,
        mcp_servers=(SERVER,) if server else (),
        custom_tools=(
            PlannedTool(
                name="miles_to_km",
                purpose="miles to kilometres",
                input_schema={"type": "object", "properties": {"value": number}, "required": ["value"]},
                output_schema=number,
                config=(ConfigField(name="digits", type="int", default=2),),
            ),
            PlannedTool(
                name="shout",
                purpose="upper case",
                input_schema={"type": "object", "properties": {"text": text}, "required": ["text"]},
                output_schema=text,
            ),
        ),
        test_cases=(
            TestCase(test_id="miles", tool="miles_to_km", arguments={"value": 10.0}, expected=16.09),
            TestCase(test_id="shout", tool="shout", arguments={"text": "hi"}, expected="HI!"),
        ),
    )
    hidden = (
        HiddenTool(
            name="miles_to_km",
            reference=miles("round(value * 1.609, config.digits)"),
            inputs={"value": ArgumentRecipe(kind=ArgumentKind.NUMBER, low=1, high=99)},
            mutants=(miles("round(value * 1.906, config.digits)"), miles("round(value + 1.609, config.digits)")),
        ),
        HiddenTool(
            name="shout",
            reference=shout('text.upper() + "!"'),
            inputs={"text": ArgumentRecipe(kind=ArgumentKind.TEXT, choices=("red", "green", "don't"))},
            mutants=(shout("text.upper()"),),
        ),
    )
    return AgentSpec(task_id="miles", plan=plan, hidden=hidden)


def config(scaffold: Scaffold = Scaffold.REACT, *, server: bool = False) -> str:
    """The configuration that the plan asks for."""
    group = "function_groups: {yahoo: {_type: mcp_client, server: {transport: stdio, command: yahoo-finance-mcp}}}\n"
    names = ["miles_to_km", "shout", *(["yahoo"] if server else [])]
    return (
        "functions: {miles_to_km: {_type: miles_to_km}, shout: {_type: shout}}\n"
        + (group if server else "")
        + "llms: {main: {_type: nim, model_name: meta/llama-3.1-70b-instruct}}\n"
        + f"workflow: {{_type: {scaffold}, llm_name: main, tool_names: [{', '.join(names)}]}}\n"
    )


def gold(scaffold: Scaffold = Scaffold.REACT, *, server: bool = False) -> dict[str, str]:
    """What a perfect agent leaves in its workspace."""
    files = {
        "nat_tools/miles_to_km.py": miles("round(value * 1.609, config.digits)"),
        "nat_tools/shout.py": shout('text.upper() + "!"'),
        "tests/test_miles_to_km.py": TEST.format(name="miles_to_km", arguments="value=10.0", expected="16.09"),
        "tests/test_shout.py": TEST.format(name="shout", arguments='text="hi"', expected='"HI!"'),
        "agent_config.yml": config(scaffold, server=server),
    }
    if server:
        files["setup_mcp.sh"] = "set -euo pipefail\nnpm install -g yahoo-finance-mcp\n"
    return files
