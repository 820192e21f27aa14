"""Answers what MCP stand-ins are asked. The secret behind the answers never enters a sandbox."""

import json
import random
import secrets
from collections.abc import Collection, Mapping

from pydantic import JsonValue

from core.types import JsonObject
from environments.nat_agent import mcp_stand_in


class McpDesk:
    """The answers of one evaluation's servers: package -> names of its tools. Only what was installed answers."""

    def __init__(self, servers: Mapping[str, Collection[str]]) -> None:
        self._servers = {
            package: frozenset(mcp_stand_in.tool_names(package, list(tools))) for package, tools in servers.items()
        }
        self._secret = secrets.token_bytes(16)
        self._chance = random.Random(self._secret)
        self.installed: frozenset[str] = frozenset()

    async def answer(self, question: JsonObject) -> JsonObject:
        """What a stand-in replies to `{"package", "tool", "arguments"}`: `{"text"}`, or `{"error"}` for what is not there."""
        package, tool, arguments = question.get("package"), question.get("tool"), question.get("arguments")
        if not isinstance(package, str) or package not in self.installed:
            return {"error": "this server is not installed"}
        if not isinstance(tool, str) or tool not in self._servers.get(package, ()):
            return {"error": "unknown tool"}
        given = arguments if isinstance(arguments, dict) else {}
        problem = mcp_stand_in.refusal(package, tool, given)
        return {"error": problem} if problem else {"text": mcp_stand_in.answer(self._secret, package, tool, given)}

    def question(self, package: str, tool: str) -> JsonObject:
        """Arguments that the tool takes, others each time."""
        return mcp_stand_in.question(package, tool, self._chance)

    def value(self, package: str, tool: str, arguments: JsonObject) -> JsonValue:
        """What the tool answers, read as JSON where it is JSON: it cannot be known without asking."""
        text = mcp_stand_in.answer(self._secret, package, tool, arguments)
        return json.loads(text) if text.startswith("{") else text
