"""Judges agent_config.yml with NAT's real schema and real builder, but without any agent code.

The agent's tools are replaced by stand-ins that have the same names and settings; MCP servers by groups that list the
planned tools. So what is reported here comes from NAT alone.
"""

import functools
from pathlib import Path
from types import SimpleNamespace

from nat.builder.function_info import FunctionInfo
from runtime.gym_llm import use_gym_llm


async def _echo(key: str) -> str:
    """Stands for a tool."""
    return key


ECHO = FunctionInfo.from_fn(_echo, description="a stand-in")
TABLES = (
    "_registered_functions",
    "_registered_function_groups",
    "_registered_llm_provider_infos",
    "_registered_embedder_provider_infos",
    "_registered_memory_infos",
    "_registered_object_store_infos",
    "_registered_retriever_provider_infos",
    "_registered_auth_provider_infos",
    "_registered_middleware",
)
PACKAGE, GYM_LLM = "nat_tools", "gym_llm"
FORGOTTEN: list[dict] = []
JSON_TYPES = {"integer": int, "number": float, "string": str, "boolean": bool, "array": list, "object": dict}


async def check_config(request: dict) -> dict:
    """Facts about the configuration in request["text"]: what loads, what builds, what is offered to the LLM.

    request["tools"]: type name -> JSON schema of its Config. request["servers"]: command -> tool names.
    """
    report: dict = {"valid": False, "built": False}
    path = written(request["text"])
    try:
        config, data = load(path, request["tools"])
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


def load(path: Path, tools: dict[str, dict]) -> tuple:
    """The validated Config, and the plain data that it was made from; `tools` are what stand-ins are made for."""
    from nat.data_models.config import Config
    from nat.utils.data_models.schema_validator import validate_schema
    from nat.utils.io.yaml_tools import yaml_load

    data = yaml_load(path)
    if not isinstance(data, dict):
        raise ValueError(f"the configuration is no mapping but {type(data).__name__}")
    names = named_types(data)
    forget_types_but(names)
    for name, schema in tools.items():
        if name in names or f"{PACKAGE}/{name}" in names:
            register_stand_in(name, schema)
    return validate_schema(data, Config), data


def named_types(data: dict) -> set[str]:
    """Every `_type` and `type` that occurs anywhere in a configuration."""
    names, seen, waiting = set(), set(), [data]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not isinstance(value, dict | list):
            continue
        seen.add(id(value))  # YAML can make a list that holds itself
        if isinstance(value, dict):
            names |= {name for key in ("_type", "type") if isinstance(name := value.get(key), str)}
        waiting += value.values() if isinstance(value, dict) else value
    return names


def forget_types_but(names: set[str]) -> None:
    """Unregister what this configuration does not name: a third of the cost of NAT's schema is in types that nobody uses.

    What is valid stays valid and nothing else becomes so: a block is checked by the type that it names. The tables are
    replaced and not emptied: to let go of a type writes to its memory, and a fork then copies the page.
    """
    from nat.cli.type_registry import GlobalTypeRegistry

    registry = GlobalTypeRegistry.get()
    for table, known in types_by_name().items():
        FORGOTTEN.append(getattr(registry, table))
        setattr(registry, table, dict(entry for name in sorted(names | {GYM_LLM}) for entry in known.get(name, ())))
    registry._registration_changed()


@functools.cache
def types_by_name() -> dict[str, dict[str, list[tuple]]]:
    """Table -> full or short name -> what NAT registers under it, as it was when this was first asked."""
    from nat.cli.type_registry import GlobalTypeRegistry

    found: dict[str, dict[str, list[tuple]]] = {}
    for table in TABLES:
        names = found[table] = {}
        for kind, info in getattr(GlobalTypeRegistry.get(), table).items():
            for name in {info.full_type, info.local_name}:
                names.setdefault(name, []).append((kind, info))
    return found


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
    module = sys.modules.setdefault(f"{PACKAGE}.stand_ins", ModuleType(f"{PACKAGE}.stand_ins"))
    module.__package__ = PACKAGE
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
    return [str(name) for field in ("tool_names", "branches", "tool_list") for name in getattr(workflow, field, None) or []]


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

    registered = GlobalTypeRegistry.get()._registered_function_groups
    if MCPClientConfig in registered:
        registered[MCPClientConfig] = registered[MCPClientConfig].model_copy(update={"build_fn": build})


async def build(config) -> list[str]:
    """Build everything with a silent LLM in place of the real one; the names of the tools that it would be offered."""
    from nat.builder.workflow_builder import WorkflowBuilder

    config = config.model_copy(update={"llms": use_gym_llm(config.llms, line=None)})
    async with WorkflowBuilder.from_config(config) as builder:
        await builder.build()
        return [name for reference in references(config.workflow) for name in await offered(builder, reference)]


async def offered(builder, reference: str) -> list[str]:
    """The tools that a name in tool_names stands for, after everything was built."""
    if reference in builder._function_groups:
        return list(await builder._function_groups[reference].instance.get_accessible_functions())
    return [builder._check_backwards_compatibility_function_name(reference)]
