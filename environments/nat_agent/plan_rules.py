"""What a plan must keep to beyond its form: what its scaffold can run, and what exists outside of it."""

from collections.abc import Iterator

from core.errors import did_you_mean
from environments.nat_agent.mcp_registry import find_server, server_names
from environments.nat_agent.plan import AgentPlan, PlannedServer, Scaffold

EXISTING_TOOLS = ("current_datetime", "current_timezone")
"""Functions of NAT's core that need no settings."""
WITHOUT_SERVERS = (Scaffold.ROUTER, Scaffold.SEQUENTIAL)
ONE_TEXT = (Scaffold.ROUTER, Scaffold.SEQUENTIAL)
"""Scaffolds in which no LLM writes arguments: NAT hands each tool one text."""


def scaffold_problem(plan: AgentPlan) -> str | None:
    """Why the scaffold cannot run this plan's tools, with the field; None where it can."""
    if plan.scaffold_type in WITHOUT_SERVERS and plan.mcp_servers:
        return f"mcp_servers: {plan.scaffold_type.value} names single functions and takes no MCP server"
    for number, tool in enumerate(plan.custom_tools):
        if plan.scaffold_type is Scaffold.REWOO and tool.output_schema["type"] == "array":
            return f"custom_tools.{number}.output_schema: NAT's rewoo_agent takes no list for evidence"
        if plan.scaffold_type not in ONE_TEXT:
            continue
        properties = tool.input_schema["properties"]
        assert isinstance(properties, dict)
        kinds = [schema["type"] for schema in properties.values() if isinstance(schema, dict)]
        if kinds != ["string"]:
            found = ", ".join(map(str, kinds))
            return f"custom_tools.{number}.input_schema: a tool of {plan.scaffold_type.value} takes one text, found {found}"
        feeds_another = plan.scaffold_type is Scaffold.SEQUENTIAL and number + 1 < len(plan.custom_tools)
        if feeds_another and tool.output_schema["type"] != "string":
            return f"custom_tools.{number}.output_schema: the next tool takes a text, found {tool.output_schema['type']}"
    return None


def plan_problems(plan: AgentPlan) -> list[str]:
    """Everything that keeps a plan from being built here, each with its field."""
    problems = [*_server_problems(plan.mcp_servers), *_existing_problems(plan), *_case_problems(plan)]
    scaffold = scaffold_problem(plan)
    return [*problems, scaffold] if scaffold else problems


def _server_problems(servers: tuple[PlannedServer, ...]) -> Iterator[str]:
    for number, planned in enumerate(servers):
        known = find_server(planned.package)
        if known is None or known.name != planned.name:
            near = did_you_mean(planned.name, server_names())
            yield f"mcp_servers.{number}: no server {planned.name!r} with package {planned.package!r}{near}"
            continue
        names = [tool.name for tool in known.tools]
        for tool in planned.tools:
            if tool not in names:
                yield f"mcp_servers.{number}.tools: {planned.name} has no tool {tool!r}; known: {', '.join(names)}"


def _existing_problems(plan: AgentPlan) -> Iterator[str]:
    for number, name in enumerate(plan.existing_tools):
        if name not in EXISTING_TOOLS:
            yield f"existing_tools.{number}: NAT brings no {name!r} along{did_you_mean(name, EXISTING_TOOLS)}"


def _case_problems(plan: AgentPlan) -> Iterator[str]:
    tested = {case.tool for case in plan.test_cases}
    for number, tool in enumerate(plan.custom_tools):
        if tool.name not in tested:
            yield f"test_cases: none for custom_tools.{number}, {tool.name!r}"
