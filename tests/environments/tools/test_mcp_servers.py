"""A real server of the Model Context Protocol, over its standard streams, as a toolset."""

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp")

from core.errors import ConfigError
from environments.base import ToolMistake
from environments.tool_context import ToolContext
from environments.tools.mcp_servers import McpServer, mcp_tools
from environments.toolsets import Toolbox, ToolsConfig
from tests.fakes import FakeSandbox

SERVER = '''
import os, sys
from pathlib import Path
from mcp.server.mcpserver import MCPServer

server = MCPServer("counter")
state = {"count": 0}
Path(sys.argv[1], str(os.getpid())).touch()

@server.tool()
def add(number: int) -> str:
    """Add to the count."""
    state["count"] += number
    return f"count {state['count']}"

@server.tool(name="fail.now")
def fail() -> str:
    """Fail."""
    raise RuntimeError("out of ink")

@server.tool()
def unused() -> str:
    """Not offered."""
    return ""

server.run("stdio")
'''


@pytest.fixture
def counter(tmp_path: Path) -> McpServer:
    (script := tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "started").mkdir()
    return McpServer(command=(sys.executable, str(script), str(tmp_path / "started")))


def episode() -> ToolContext:
    return ToolContext(FakeSandbox(0, lambda argv: pytest.fail("nothing is run in the sandbox")))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_server_is_a_toolset_and_each_episode_has_a_session_of_its_own(counter: McpServer, tmp_path: Path):
    chosen = counter.model_copy(update={"tools": ("add", "fail.now")})
    box = await Toolbox.open(ToolsConfig(use=("ink",), mcp={"ink": chosen}))
    add, fail = box.tools
    assert [tool.spec.name for tool in box.tools] == ["ink_add", "ink_fail_now"]
    assert add.spec.description == "Add to the count."
    assert add.spec.parameters["required"] == ["number"]
    async with episode() as one, episode() as other:
        assert [await add.run(one, {"number": number}) for number in (2, 3)] == ["count 2", "count 5"]
        assert await add.run(other, {"number": 1}) == "count 1"
        with pytest.raises(ToolMistake, match=r"Error executing tool fail\.now"):
            await fail.run(one, {})
        with pytest.raises(ToolMistake, match="number"):
            await add.run(one, {"number": "many"})
        assert await add.run(one, {"number": 1}) == "count 6"
    started = [int(path.name) for path in (tmp_path / "started").iterdir()]
    assert len(started) == 3
    assert [pid for pid in started if is_alive(pid)] == []


async def test_a_tool_that_a_server_does_not_have_is_refused_with_those_that_it_has(counter: McpServer):
    with pytest.raises(ConfigError, match=r"the MCP server 'ink' has no tool 'sub'; known: add, fail\.now, unused"):
        await mcp_tools("ink", counter.model_copy(update={"tools": ("sub",)}))


@pytest.mark.parametrize(
    "words", [("/nowhere/server",), (sys.executable, "-c", "print('hello')")], ids=["missing", "no server"]
)
async def test_a_server_that_does_not_answer_is_named(words: tuple[str, ...]):
    with pytest.raises(ConfigError, match="the MCP server 'ink' does not answer: "):
        await mcp_tools("ink", McpServer(command=words, timeout_seconds=30))


def test_a_server_is_reached_in_one_way():
    for wrong in ({}, {"command": ("x",), "url": "http://127.0.0.1"}):
        with pytest.raises(ValueError, match="expected either command or url"):
            McpServer(**wrong)
