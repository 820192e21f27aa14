"""What the local stand-in of an MCP server lists, is asked and answers.

The data of one episode follow from a secret: the same question gives the same answer, and nobody can know it who did
not ask. A server that the registry does not know has tools that take a `key`.
"""

import json
import random
from collections.abc import Sequence
from hashlib import blake2b

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent.mcp_registry import McpTool, draw_object, find_server
from environments.nat_agent.schemas import mismatch

KEY_SCHEMA: JsonObject = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}
REFERENCE = "request_id"
"""The field of every answer that only a holder of the secret can know."""


def listing(package: str, tools: Sequence[str]) -> list[JsonValue]:
    """The entries of `tools/list` for these tools of a server, and for whatever else the real server offers."""
    server = find_server(package)
    known: list[JsonValue] = [tool.listed() for tool in server.tools] if server else []
    others = [name for name in tools if server is None or server.tool(name) is None]
    return [*known, *({"name": name, "description": f"{name} of a key", "inputSchema": KEY_SCHEMA} for name in others)]


def tool_names(package: str, tools: Sequence[str]) -> list[JsonValue]:
    """The names in `listing`."""
    return [entry["name"] for entry in listing(package, tools) if isinstance(entry, dict)]


def free_text(package: str, tool: str) -> str:
    """The argument of a tool that takes any text."""
    known = _tool(package, tool)
    properties = (known.input_schema if known else KEY_SCHEMA)["properties"]
    assert isinstance(properties, dict)
    open_ones = (name for name, about in properties.items() if isinstance(about, dict) and about.get("type") == "string")
    return next(name for name in open_ones if "enum" not in as_object(properties[name]))


def question(package: str, tool: str, chance: random.Random) -> JsonObject:
    """Arguments that a scenario calls a tool with."""
    known = _tool(package, tool)
    return draw_object(known.inputs, chance) if known else {"key": f"{chance.getrandbits(32):08x}"}


def refusal(package: str, tool: str, arguments: JsonObject) -> str | None:
    """What the server says to arguments that its schema does not take; None where it answers."""
    known = _tool(package, tool)
    return mismatch(arguments, known.input_schema if known else KEY_SCHEMA)


def answer(secret: bytes, package: str, tool: str, arguments: JsonObject) -> str:
    """The text that a tool answers: an object of random data in JSON, with a reference that cannot be guessed."""
    asked = json.dumps([package, tool, arguments], sort_keys=True).encode()
    token = blake2b(asked, key=secret, digest_size=8).hexdigest()
    known = _tool(package, tool)
    if known is None:
        return token
    # the data come from another digest than the reference, so that neither tells the other
    chance = random.Random(blake2b(asked, key=secret, digest_size=16, person=b"data").digest())
    return json.dumps({**draw_object(known.answer, chance), REFERENCE: token})


def as_object(value: JsonValue) -> JsonObject:
    """`value` where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _tool(package: str, tool: str) -> McpTool | None:
    server = find_server(package)
    return server.tool(tool) if server else None
