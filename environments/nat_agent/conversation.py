"""What the coding agent is told, and the tools that it is given."""

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from core.types import JsonObject, Message, Role, ToolSpec
from environments.nat_agent.mcp_registry import find_server
from environments.nat_agent.plan import AgentPlan, PlannedServer, PlannedTool, TestCase
from environments.nat_agent.schemas import python_type

FOLDER = Path(__file__).parent / "prompts"


class Prompt(StrEnum):
    """How much the coding agent is told; each is a file in `prompts/` and a way to write a plan down."""

    SMALL = "small"
    """One sentence and a terse plan: what the shipped policy knows."""
    NAT = "nat"
    """How NAT 1.9 agents are written, and the plan in full: for models that never saw one."""


def _tool(name: str, description: str, **parameters: str) -> ToolSpec:
    properties: JsonObject = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    return ToolSpec(
        name=name,
        description=description,
        parameters={"type": "object", "properties": properties, "required": list(parameters)},
    )


WRITE_FILE = _tool("write_file", "Write a file.", path="where", content="what")
READ_FILE = _tool("read_file", "Read a file.", path="where")
BASH = _tool("bash", "Run a shell command.", command="what")
RUN_TESTS = _tool("run_tests", "Run the tests.")
FINISH = _tool("finish", "Hand the agent in.")
TOOL_SPECS = (WRITE_FILE, READ_FILE, BASH, RUN_TESTS, FINISH)


def opening(plan: AgentPlan, prompt: Prompt = Prompt.SMALL) -> tuple[Message, ...]:
    """System and user message of one episode."""
    return (
        Message(role=Role.SYSTEM, content=(FOLDER / f"{prompt.value}.md").read_text(encoding="utf-8").strip()),
        Message(role=Role.USER, content=DESCRIPTIONS[prompt](plan)),
    )


def describe(plan: AgentPlan) -> str:
    """The plan in words, every fact that the deliverable depends on included."""
    lines = [plan.user_request, f"scaffold: {plan.scaffold_type}"]
    examples = {case.tool: case for case in plan.test_cases}
    for tool in plan.custom_tools:
        lines.append(f"tool {signature(tool)}")
        lines.append(f"does: {tool.purpose}")
        lines += [f"setting {one.name}: {one.type} = {one.default!r}" for one in tool.config]
        if case := examples.get(tool.name):
            lines.append(f"example: {_arguments(case)} gives {case.expected!r}")
    lines += [f"mcp {server.name}: {server.package}" for server in plan.mcp_servers]
    return "\n".join(lines)


def describe_fully(plan: AgentPlan) -> str:
    """The plan as a page of Markdown. The template of the configuration is left out: that is for the agent to write."""
    parts = [
        f"# What is wanted\n{plan.user_request}",
        f"# Workflow\n`_type: {plan.scaffold_type}`" + (f": {plan.scaffold_reasoning}" if plan.scaffold_reasoning else ""),
        "# Tools to write\n" + "\n\n".join(_tool_section(tool, plan.test_cases) for tool in plan.custom_tools),
    ]
    if plan.existing_tools:
        parts.append("# Functions that NAT brings along\n" + "\n".join(f"- `{name}`" for name in plan.existing_tools))
    if plan.mcp_servers:
        parts.append("# MCP servers\n" + "\n".join(_server_line(server) for server in plan.mcp_servers))
    if plan.implementation_steps:
        parts.append("# Steps\n" + "\n".join(f"{number}. {step}" for number, step in enumerate(plan.implementation_steps, 1)))
    return "\n\n".join(parts)


DESCRIPTIONS: Mapping[Prompt, Callable[[AgentPlan], str]] = {Prompt.SMALL: describe, Prompt.NAT: describe_fully}


def signature(tool: PlannedTool) -> str:
    """`count_apple(text: str) -> int`."""
    properties = tool.input_schema["properties"]
    assert isinstance(properties, dict)
    parameters = ", ".join(f"{name}: {python_type(schema)}" for name, schema in properties.items())
    return f"{tool.name}({parameters}) -> {python_type(tool.output_schema)}"


def _tool_section(tool: PlannedTool, cases: tuple[TestCase, ...]) -> str:
    lines = [f"## `{signature(tool)}`", tool.purpose]
    lines.append(f"- input: `{json.dumps(tool.input_schema)}`")
    lines.append(f"- output: `{json.dumps(tool.output_schema)}`")
    lines += [f"- setting `{one.name}: {one.type} = {one.default!r}`" for one in tool.config]
    lines += [f"- needs `{package}`" for package in tool.dependencies]
    lines += [f"- `{tool.name}({_arguments(case)})` gives `{case.expected!r}`" for case in cases if case.tool == tool.name]
    return "\n".join(lines)


def _server_line(server: PlannedServer) -> str:
    known = find_server(server.package)
    about = {tool.name: tool.description for tool in known.tools} if known else {}
    tools = "; ".join(f"`{name}` {about.get(name, '')}".strip() for name in server.tools)
    return f"- `{server.name}`, package `{server.package}`: {tools}"


def _arguments(case: TestCase) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in case.arguments.items())
