"""What the coding agent is told, and the tools that it is given."""

from pathlib import Path

from core.types import JsonObject, Message, Role, ToolSpec
from environments.nat_agent.plan import AgentPlan, PlannedTool
from environments.nat_agent.sources import PYTHON_TYPES

PROMPT_FILE = Path(__file__).parent / "prompts" / "system.md"


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


def opening(plan: AgentPlan) -> tuple[Message, ...]:
    """System and user message of one episode."""
    return (
        Message(role=Role.SYSTEM, content=PROMPT_FILE.read_text(encoding="utf-8").strip()),
        Message(role=Role.USER, content=describe(plan)),
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
            arguments = ", ".join(f"{name}={value!r}" for name, value in case.arguments.items())
            lines.append(f"example: {arguments} gives {case.expected!r}")
    lines += [f"mcp {server.name}: {server.package}" for server in plan.mcp_servers]
    return "\n".join(lines)


def signature(tool: PlannedTool) -> str:
    """`count_apple(text: str) -> int`."""
    properties = tool.input_schema["properties"]
    assert isinstance(properties, dict)
    parameters = ", ".join(f"{name}: {_python_type(schema)}" for name, schema in properties.items())
    return f"{tool.name}({parameters}) -> {_python_type(tool.output_schema)}"


def _python_type(schema: object) -> str:
    assert isinstance(schema, dict)
    return PYTHON_TYPES[str(schema["type"])]
