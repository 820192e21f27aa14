"""The files of a NAT agent as text: what a correct deliverable looks like.

The reference of a specification, its mutants and the scripted expert's files all come from here.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.plan import AgentPlan, PlannedServer, PlannedTool, Scaffold, TestCase

CONFIG_CLASS = re.compile(r"^class (\w+)\(FunctionBaseConfig\b", re.MULTILINE)
OFFERED_AS = {Scaffold.ROUTER: "branches", Scaffold.SEQUENTIAL: "tool_list"}
"""Under which key a workflow lists its tools, where that is not `tool_names`."""
MODEL_NAME = "mistralai/mistral-large"
ALLOWED_NAMES = {
    "round": round, "sum": sum, "len": len, "min": min, "max": max, "bool": bool,
    "date": datetime.date, "timedelta": datetime.timedelta,
}  # fmt: skip


def tool_source(tool: PlannedTool, parameters: Mapping[str, str], returns: str, body: str, imports: str = "") -> str:
    """`nat_tools/<name>.py`: a Config, a registration, and one expression that is the tool."""
    settings = "".join(f"    {one.name}: {one.type} = {one.default!r}\n" for one in tool.config)
    signature = ", ".join(f"{name}: {kind}" for name, kind in parameters.items())
    return (
        f"{imports}from nat.plugin_api import Builder, FunctionBaseConfig, FunctionInfo, register_function\n\n\n"
        f'class ToolConfig(FunctionBaseConfig, name="{tool.name}"):\n'
        f'    description: str = "{tool.name}"\n{settings}\n\n'
        "@register_function(config_type=ToolConfig)\n"
        "async def build(config: ToolConfig, builder: Builder):\n"
        f"    async def run({signature}) -> {returns}:\n"
        f"        return {body}\n\n"
        "    yield FunctionInfo.from_fn(run, description=config.description)\n"
    )


def variant_source(tool: PlannedTool, parameters: Mapping[str, str], returns: str, body: str, imports: str = "") -> str:
    """The same tool by another author, with NAT's long imports; whoever tests behaviour sees no difference."""
    signature = ", ".join(f"{name}: {kind}" for name, kind in parameters.items())
    settings = "".join(f"    {one.name}: {one.type} = Field(default={one.default!r})\n" for one in tool.config)
    return (
        f"{imports}from nat.builder.builder import Builder\n"
        "from nat.builder.function_info import FunctionInfo\n"
        "from nat.cli.register_workflow import register_function\n"
        "from nat.data_models.function import FunctionBaseConfig\n"
        "from pydantic import Field\n\n\n"
        f'class ToolConfig(FunctionBaseConfig, name="{tool.name}"):\n'
        f'{settings}    description: str = Field(default="computes {tool.name}")\n\n\n'
        "@register_function(config_type=ToolConfig)\n"
        "async def build(config: ToolConfig, builder: Builder):\n"
        f"    async def answer({signature}) -> {returns}:\n"
        f"        result = {body}\n"
        "        return result\n\n"
        "    yield FunctionInfo.from_fn(answer, description=config.description)\n"
    )


def config_class(source: str) -> str:
    """The name of a tool's Config class, as its tests import it."""
    found = CONFIG_CLASS.search(source)
    return found.group(1) if found else "ToolConfig"


def test_source(case: TestCase) -> str:
    """`tests/test_<name>.py` for a tool of `tool_source`: one call with a known result."""
    return suite_source(case, "ToolConfig")


def suite_source(case: TestCase, config: str) -> str:
    """`tests/test_<name>.py`: one call with a known result; `config` is the name of the tool's Config class."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in case.arguments.items())
    return (
        "import pytest\n"
        "from nat.builder.workflow_builder import WorkflowBuilder\n\n"
        f"from nat_tools.{case.tool} import {config}\n\n\n"
        "@pytest.mark.asyncio\n"
        "async def test_tool():\n"
        "    async with WorkflowBuilder() as builder:\n"
        f'        tool = await builder.add_function("tool", {config}())\n'
        f"        assert await tool.acall_invoke({arguments}) == {case.expected!r}\n"
    )


test_source.__test__ = False  # type: ignore[attr-defined]  # not for pytest


def config_source(plan: AgentPlan, tool_names: Sequence[str] | None = None) -> str:
    """`agent_config.yml` in NAT's format. `tool_names` overrides what the workflow is offered."""
    kinds = [*plan.existing_tools, *(tool.name for tool in plan.custom_tools)]
    functions = "".join(f"  {name}:\n    _type: {name}\n" for name in kinds)
    groups = "".join(_group(server) for server in plan.mcp_servers)
    offered = [*kinds, *(server.name for server in plan.mcp_servers)] if tool_names is None else tool_names
    has_llm = plan.scaffold_type is not Scaffold.SEQUENTIAL
    return (
        f"functions:\n{functions}"
        + (f"function_groups:\n{groups}" if groups else "")
        + (f"llms:\n  main:\n    _type: nim\n    model_name: {MODEL_NAME}\n" if has_llm else "")
        + f"workflow:\n  _type: {plan.scaffold_type}\n"
        + ("  llm_name: main\n" if has_llm else "")
        + f"  {OFFERED_AS.get(plan.scaffold_type, 'tool_names')}: [{', '.join(offered)}]\n"
    )


def setup_source(servers: Sequence[PlannedServer]) -> str:
    """`setup_mcp.sh`: installs each planned server; running it twice changes nothing."""
    installs = "".join(f"npm install -g {server.package}\n" for server in servers)
    return f"#!/usr/bin/env bash\nset -euo pipefail\n{installs}"


def evaluate(body: str, arguments: JsonObject, settings: Mapping[str, JsonValue]) -> JsonValue:
    """What a family's expression answers. For expressions of our own tables only: gaps hold words and numbers."""
    names = {**ALLOWED_NAMES, **arguments, "config": SimpleNamespace(**settings)}
    return eval(body, {"__builtins__": {}, **names})  # noqa: S307


def _group(server: PlannedServer) -> str:
    return f"  {server.name}:\n    _type: mcp_client\n    server:\n      transport: stdio\n      command: {server.package}\n"
