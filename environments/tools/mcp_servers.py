"""Any server of the Model Context Protocol as a toolset, through the `mcp` SDK (an extra: natgym[mcp]).

A server is named by the user, not by the policy, and runs on this machine or behind an address. Each episode that
uses one has a session of its own, so what a server remembers for one episode is not seen by another.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from core.config import Config
from core.errors import ConfigError, MissingRuntime
from core.types import JsonObject, ToolSpec
from environments.base import Tool, ToolMistake
from environments.tool_context import ToolContext

if TYPE_CHECKING:
    from mcp import Client

START_SECONDS = 60.0
END_SECONDS = 10.0
INVALID_PARAMS = -32602  # JSON-RPC: the arguments are wrong, which is the caller's doing
NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_-]")
MAX_NAME = 64


class McpServer(Config):
    """How to reach a server: a command that speaks over its standard streams, or an address."""

    command: tuple[str, ...] = ()
    url: str = Field(default="", pattern="^(https?://.*)?$")
    env: dict[str, str] = Field(default_factory=dict)
    """Added to the few variables that a command gets: PATH, HOME and the like."""
    tools: tuple[str, ...] | None = None
    """Names of the tools to offer, as the server has them; None: all."""
    timeout_seconds: float = Field(default=60.0, gt=0)

    @model_validator(mode="after")
    def _one_way_to_reach_it(self) -> Self:
        if bool(self.command) == bool(self.url):
            raise ValueError("expected either command or url")
        return self


async def mcp_tools(name: str, server: McpServer) -> list[Tool]:
    """The tools that a server offers, called NAME_TOOL.

    Raises MissingRuntime without the SDK, ConfigError where it does not answer or lacks a tool that was asked for.
    """
    if find_spec("mcp") is None:
        raise MissingRuntime(f"the MCP server {name!r} needs the package 'mcp': pip install 'natgym[mcp]'")
    try:
        async with session(server) as client, asyncio.timeout(START_SECONDS):
            offered = await _offered(client)
    except Exception as error:  # a transport raises whatever it likes, in groups too
        raise ConfigError(f"the MCP server {name!r} does not answer: {_first(error)}") from error
    chosen = list(offered) if server.tools is None else list(server.tools)
    if unknown := [one for one in chosen if one not in offered]:
        raise ConfigError(f"the MCP server {name!r} has no tool {unknown[0]!r}; known: {', '.join(offered)}")
    return [_tool(name, server, offered[one]) for one in chosen]


@asynccontextmanager
async def session(server: McpServer) -> "AsyncIterator[Client]":
    """A session with a server, ended with the block. It lives in a task of its own.

    The SDK wants it opened and closed by the same task, while tools may be called by any.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Client] = loop.create_future()
    done = asyncio.Event()
    living = loop.create_task(_live(server, ready, done))
    try:
        async with asyncio.timeout(START_SECONDS):
            client = await _first_of(ready, living)
        yield client
    finally:
        done.set()
        await asyncio.shield(_end(living))


async def _live(server: McpServer, ready: "asyncio.Future[Client]", done: asyncio.Event) -> None:
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    with open(os.devnull, "w") as silent:  # noqa: ASYNC230, PTH123
        target: Any = server.url
        if server.command:
            program, *words = server.command
            target = stdio_client(StdioServerParameters(command=program, args=words, env=server.env), errlog=silent)
        async with Client(target, read_timeout_seconds=server.timeout_seconds) as client:
            ready.set_result(client)
            await done.wait()


async def _first_of(ready: "asyncio.Future[Client]", living: asyncio.Task[None]) -> "Client":
    await asyncio.wait([ready, living], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        living.result()  # raises what kept it from starting
    return ready.result()


async def _end(living: asyncio.Task[None]) -> None:
    """Wait for the end of a session; one that hangs is cancelled, which kills the server's process."""
    await asyncio.wait([living], timeout=END_SECONDS)
    living.cancel()
    with suppress(Exception, asyncio.CancelledError):
        await living


async def _offered(client: "Client") -> dict[str, Any]:
    """All tools by name, page by page."""
    found: dict[str, Any] = {}
    cursor: str | None = None
    for _ in range(100):
        page = await client.list_tools(cursor=cursor)
        found |= {one.name: one for one in page.tools}
        cursor = page.next_cursor
        if not cursor:
            break
    return found


def _tool(server_name: str, server: McpServer, offered: Any) -> Tool:
    async def run(context: ToolContext, arguments: JsonObject) -> str:
        from mcp.shared.exceptions import MCPError

        client = await context.held(f"mcp {server_name}", lambda: session(server))
        try:
            result = await client.call_tool(offered.name, arguments)
        except MCPError as error:
            if error.error.code == INVALID_PARAMS:
                raise ToolMistake(error.error.message) from error
            raise
        text = "\n".join(_text(part) for part in result.content) or str(result.structured_content or "")
        if result.is_error:
            raise ToolMistake(text)
        return text

    name = NOT_IN_A_NAME.sub("_", f"{server_name}_{offered.name}")[:MAX_NAME]
    schema = {"type": "object", "properties": {}, **offered.input_schema}
    return Tool(ToolSpec(name=name, description=offered.description or offered.name, parameters=schema), run)


def _text(part: Any) -> str:
    if part.type == "text":
        return part.text
    return f"[{part.type}, {getattr(part, 'mime_type', None) or 'no type'}: cannot be shown]"


def _first(error: BaseException) -> str:
    """The first thing that went wrong, out of groups of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]
