"""Which files of a workspace are handed in, and what the plan asks for among them."""

import re
from collections.abc import Mapping

from environments.nat_agent.plan import AgentPlan

COUNTED = re.compile(
    r"nat_tools/[A-Za-z0-9_]+\.py|tests/test_[A-Za-z0-9_]+\.py|agent_config\.yml|setup_mcp\.sh|pyproject\.toml"
)
CONFIG, SETUP = "agent_config.yml", "setup_mcp.sh"
MAX_FILES, MAX_CHARACTERS = 64, 200_000


def counted(files: Mapping[str, str]) -> dict[str, str]:
    """The files that are scored: only these paths are copied to the fresh place where the scoring happens."""
    kept = sorted(name for name in files if COUNTED.fullmatch(name))[:MAX_FILES]
    return {name: files[name][:MAX_CHARACTERS].encode("utf-8", "replace").decode() for name in kept}


def modules(files: Mapping[str, str]) -> list[str]:
    """Names of the modules in nat_tools."""
    return [
        name.removeprefix("nat_tools/").removesuffix(".py")
        for name in files
        if name.startswith("nat_tools/") and "__init__" not in name
    ]


def suites(files: Mapping[str, str]) -> dict[str, str]:
    """The test files alone."""
    return {name: text for name, text in files.items() if name.startswith("tests/")}


def missing(plan: AgentPlan, files: Mapping[str, str]) -> list[str]:
    """Required files that are not there."""
    required = [f"nat_tools/{tool.name}.py" for tool in plan.custom_tools] + [CONFIG]
    return [name for name in required if name not in files]
