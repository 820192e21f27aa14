"""What starts without the heavy packages: the ground floor, every environment, the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IN_SANDBOX = "environments.nat_agent.runtime"  # runs under the NAT runtime's own interpreter
OF_AN_EXTRA = {"backends.modal", "backends.modal_stream"}  # loaded by the backend's name alone, as an engine is
HEAVY = {"torch", "transformers", "nat", "langchain", "langchain_core", "langgraph", "modal", "ray", "pandas", "matplotlib"}
SLOW_TO_START = HEAVY | {"starlette", "rich", "uvicorn", "httpx", "aiohttp", "pyarrow", "numpy", "asyncio", "pydantic"}
IMPORT = """
import json, sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
print(json.dumps(list(sys.modules)))
"""


def modules_below(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [name for name in names if not name.startswith(IN_SANDBOX) and not name.endswith("__main__")]


def loaded_by(*names: str) -> set[str]:
    """Top-level names of everything that a fresh interpreter holds after importing these."""
    done = subprocess.run([sys.executable, "-c", IMPORT, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize("package", ["core", "tool_call_parsers", "backends", "environments"])
def test_every_module_of_the_package_loads_without_the_heavy_packages(package: str):
    assert loaded_by(*(set(modules_below(package)) - OF_AN_EXTRA)) & HEAVY == set()


def test_the_command_line_starts_without_what_only_its_commands_need():
    assert loaded_by("services.cli") & SLOW_TO_START == set()
