"""Scores agent_config.yml and setup_mcp.sh by what NAT made of them, without agent code."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.mcp_stand_in import tool_names
from environments.nat_agent.plan import AgentPlan, PlannedServer, PlannedTool

LLM_TYPES = frozenset(
    {"openai", "nim", "azure_openai", "aws_bedrock", "litellm", "huggingface", "huggingface_inference", "dynamo", "oci"}
)
AGENTS_PACKAGE = "nat.plugins.langchain."
WITHOUT_LLM = frozenset({"sequential_executor"})
SEPARATOR = "__"


class Offer(NamedTuple):
    """Under which names the workflow offers what the plan asks for; None where it does not."""

    tools: Mapping[str, str | None]
    servers: Mapping[str, str | None]
    """Server name -> key of its function group."""


def config_request(plan: AgentPlan, text: str, reports: JsonObject) -> JsonObject:
    """The question for a fork without agent code: this text, with stand-ins for the tools."""
    planned: JsonObject = {tool.name: _planned_settings(tool) for tool in plan.custom_tools}
    own: JsonObject = {
        name: report["config_schema"]
        for name, report in reports.items()
        if isinstance(report, dict) and isinstance(report.get("config_schema"), dict)
    }
    servers: JsonObject = {server.package: tool_names(server.package, server.tools) for server in plan.mcp_servers}
    return {"do": "config", "text": text, "tools": planned | own, "servers": servers}


def _planned_settings(tool: PlannedTool) -> JsonObject:
    settings: JsonObject = {field.name: {} for field in tool.config}
    return {"properties": {**settings, "description": {"type": "string"}}}


def offer_of(plan: AgentPlan, facts: JsonObject) -> Offer:
    """Where the built configuration has each planned tool and server."""
    offered = set(_strings(facts.get("offered")))
    functions, groups = _object(facts.get("functions")), _object(facts.get("groups"))
    tools = {
        tool.name: next((key for key, kind in functions.items() if kind == f"nat_tools/{tool.name}" and key in offered), None)
        for tool in plan.custom_tools
    }
    servers = {server.name: _group_of(server, groups, offered) for server in plan.mcp_servers}
    return Offer(tools, servers)


def _group_of(server: PlannedServer, groups: JsonObject, offered: set[str]) -> str | None:
    for key, group in groups.items():
        about = _object(group)
        bound = about.get("transport") == "stdio" and about.get("command") == server.package
        if bound and all(f"{key}{SEPARATOR}{tool}" in offered for tool in server.tools):
            return key
    return None


def judge_config(plan: AgentPlan, facts: JsonObject, problems: list[str]) -> dict[str, float]:
    """The sub-scores of the configuration from what the fork without agent code reports."""
    valid, built = facts.get("valid") is True, facts.get("built") is True
    if "error" in facts:
        problems.append(f"agent_config.yml: {facts['error']}")
    offer = offer_of(plan, facts)
    wanted = [*offer.tools.values(), *offer.servers.values()]
    strays = _strays(facts) if valid else []
    problems += [f"agent_config.yml: {stray}" for stray in strays]
    problems += [
        f"agent_config.yml: {name} is not offered" for name, key in {**offer.tools, **offer.servers}.items() if key is None
    ]
    return {
        "config_valid": float(valid),
        "config_builds": float(built),
        "config_scaffold": _scaffold_score(plan, facts) if valid else 0.0,
        "config_offers": sum(key is not None for key in wanted) / len(wanted) if built else 0.0,
        "config_strict": float(valid and built and not strays),
    }


def _scaffold_score(plan: AgentPlan, facts: JsonObject) -> float:
    kind = str(facts.get("workflow"))
    scaffold = kind.startswith(AGENTS_PACKAGE) and kind.endswith(f"/{plan.scaffold_type}")
    llms = [str(llm) for llm in _object(facts.get("llms")).values()]
    enough = bool(llms) or plan.scaffold_type in WITHOUT_LLM
    return 0.5 * scaffold + 0.5 * (enough and all(llm in LLM_TYPES for llm in llms))


def _strays(facts: JsonObject) -> list[str]:
    """What NAT ignores without a word: unknown keys, functions that nothing refers to."""
    references = set(_strings(facts.get("references")))
    unused = [key for part in ("functions", "groups") for key in _object(facts.get(part)) if not _used(key, references)]
    return [f"unknown key {key}" for key in _strings(facts.get("unknown_keys"))] + [f"{key} is never used" for key in unused]


def _used(key: str, references: set[str]) -> bool:
    return any(name == key or name.startswith((f"{key}{SEPARATOR}", f"{key}.")) for name in references)


def judge_setup(planned: Sequence[str], facts: JsonObject, problems: list[str]) -> float:
    """How well setup_mcp.sh installs the planned packages, and only these, twice with the same result."""
    runs = facts.get("runs")
    runs = [_object(run) for run in runs] if isinstance(runs, list) else []
    if len(runs) != 2:
        return 0.0
    installed = set(_strings(runs[0].get("installed")))
    hits = len(installed & set(planned))
    score = 2 * hits / (len(installed) + len(planned)) if hits else 0.0
    if any(run.get("status") != 0 for run in runs):
        problems.append(f"setup_mcp.sh: {runs[0].get('problem') or 'does not exit with 0'}")
        score *= 0.5
    elif runs[0].get("installed") != runs[1].get("installed"):
        problems.append("setup_mcp.sh: a second run has another result")
        score *= 0.5
    if installed != set(planned):
        problems.append(f"setup_mcp.sh: installs {', '.join(sorted(installed)) or 'nothing'}"[:200])
    return score


def installed(facts: JsonObject) -> frozenset[str]:
    """The packages that are there after the last run of setup_mcp.sh."""
    runs = facts.get("runs")
    return frozenset(_strings(_object(runs[-1]).get("installed"))) if isinstance(runs, list) and runs else frozenset()


def _object(value: JsonValue) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _strings(value: JsonValue) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
