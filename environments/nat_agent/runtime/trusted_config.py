"""Judges agent_config.yml with NAT's real schema and real builder, but without any agent code.

The agent's tools are replaced by stand-ins that have the same names and settings; MCP servers by groups that list the
planned tools. So what is reported here comes from NAT alone.
"""

from pathlib import Path
from types import SimpleNamespace

from nat.builder.function_info import FunctionInfo
from runtime.gym_llm import use_gym_llm


async def _echo(key: str) -> str:
    """Stands for a tool."""
    return key


ECHO = FunctionInfo.from_fn(_echo, description="a stand-in")
JSON_TYPES = {"integer": int, "number": float, "string": str, "boolean": bool, "array": list, "object": dict}


async def check_config(request: dict) -> dict:
    """Facts about the configuration in request["text"]: what loads, what builds, what is offered to the LLM.

    request["tools"]: type name -> JSON schema of its Config. request["servers"]: command -> tool names.
    """
    report: dict = {"valid": False, "built": False}
    path = written(request["text"])
    for name, schema in request["tools"].items():
        register_stand_in(name, schema)
    try:
        config, data = load(path)
        report["valid"] = True
        report.update(describe(config, data))
        replace_mcp_clients(request["servers"])
        report["offered"] = await build(config)
        report["built"] = True
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
    return report


def written(text: str) -> Path:
    path = Path("agent_config.yml")
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path) -> tuple:
    """The validated Config, and the plain data that it was made from."""
    from nat.data_models.config import Config
    from nat.utils.data_models.schema_validator import validate_schema
    from nat.utils.io.yaml_tools import yaml_load

    data = yaml_load(path)
    if not isinstance(data, dict):
        raise ValueError(f"the configuration is no mapping but {type(data).__name__}")
    return validate_schema(data, Config), data


def register_stand_in(name: str, schema: dict) -> None:
    """A function type of that name whose Config has the fields of `schema`."""
    import sys
    from types import ModuleType

    from nat.cli.register_workflow import register_function
    from nat.data_models.function import FunctionBaseConfig
    from pydantic import Field

    required = schema.get("required", [])
    fields = {
        field: (stand_in_type(about), Field(... if field in required else None))
        for field, about in schema.get("properties", {}).items()
        if field.isidentifier() and not field.startswith(("_", "model_")) and field not in FunctionBaseConfig.model_fields
    }
    module = sys.modules.setdefault("nat_tools.stand_ins", ModuleType("nat_tools.stand_ins"))
    module.__package__ = "nat_tools"
    body = {"__annotations__": {field: kind for field, (kind, _) in fields.items()}, "__module__": module.__name__}
    body.update({field: default for field, (_, default) in fields.items()})
    config_type = type(FunctionBaseConfig)("StandIn", (FunctionBaseConfig,), body, name=name)

    async def build(config, builder):
        yield ECHO

    register_function(config_type=config_type)(build)


def stand_in_type(about: object) -> object:
    kind = JSON_TYPES.get(about.get("type", "")) if isinstance(about, dict) else None
    return kind | None if kind is not None else object


def describe(config, data: dict) -> dict:
    """Names, types and unknown keys of a validated configuration, as plain data."""
    sections = {name: getattr(config, name) for name in ("functions", "function_groups", "llms")}
    blocks = [(f"{name}.{key}", block, data[name][key]) for name, part in sections.items() for key, block in part.items()]
    blocks.append(("workflow", config.workflow, data.get("workflow", {})))
    return {
        "workflow": config.workflow.full_type,
        "references": references(config.workflow),
        "native_tools": bool(getattr(config.workflow, "use_native_tool_calling", False)),
        "functions": {key: block.full_type for key, block in config.functions.items()},
        "groups": {key: group_facts(block) for key, block in config.function_groups.items()},
        "llms": {key: block.static_type() for key, block in config.llms.items()},
        "unknown_keys": [f"{where}.{key}" for where, block, given in blocks for key in unknown_keys(type(block), given)],
        "other_sections": sorted(set(data) - {"general", "functions", "function_groups", "llms", "workflow"}),
    }


def references(workflow) -> list[str]:
    """The names of functions and groups that a workflow refers to."""
    names = [*(getattr(workflow, "tool_names", None) or []), *(getattr(workflow, "branches", None) or [])]
    return [str(name) for name in names]


def group_facts(block) -> dict:
    server = getattr(block, "server", SimpleNamespace())
    facts = {key: getattr(server, key, None) for key in ("transport", "command", "args", "env")}
    return {"type": block.static_type(), "include": list(block.include), "exclude": list(block.exclude), **facts}


def unknown_keys(kind: type, given: object) -> list[str]:
    """Keys that NAT ignores silently: neither a field of the block's type nor an alias of one."""
    known = {"_type", "type"}
    for name, field in kind.model_fields.items():
        known.add(name)
        for alias in (field.alias, field.validation_alias):
            known.update(getattr(alias, "choices", [alias]))
    return [str(key) for key in given if key not in known] if isinstance(given, dict) else []


def replace_mcp_clients(servers: dict[str, list[str]]) -> None:
    """Let mcp_client groups list `servers[command]` instead of starting the command."""
    from contextlib import asynccontextmanager

    from nat.builder.function import FunctionGroup
    from nat.cli.type_registry import GlobalTypeRegistry
    from nat.plugins.mcp.client.client_config import MCPClientConfig

    @asynccontextmanager
    async def build(config, builder):
        if config.server.transport != "stdio" or config.server.command not in servers:
            raise ConnectionError(f"no MCP server answers at {config.server.command or config.server.url}")
        group = FunctionGroup(config=config)
        for name in servers[config.server.command]:
            group.add_function(name, _echo, description=name)
        yield group

    registry = GlobalTypeRegistry.get()
    registration = registry.get_function_group(MCPClientConfig)
    registry._registered_function_groups[MCPClientConfig] = registration.model_copy(update={"build_fn": build})


async def build(config) -> list[str]:
    """Build everything with a silent LLM in place of the real one; the names of the tools that it would be offered."""
    from nat.builder.workflow_builder import WorkflowBuilder

    config = config.model_copy(update={"llms": use_gym_llm(config.llms, channel=None)})
    async with WorkflowBuilder.from_config(config) as builder:
        await builder.build()
        return [name for reference in references(config.workflow) for name in await offered(builder, reference)]


async def offered(builder, reference: str) -> list[str]:
    """The tools that a name in tool_names stands for, after everything was built."""
    if reference in builder._function_groups:
        return list(await builder._function_groups[reference].instance.get_accessible_functions())
    return [builder._check_backwards_compatibility_function_name(reference)]
