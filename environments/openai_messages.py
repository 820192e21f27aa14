"""Messages and tools in the form of OpenAI's chat protocol, from a data file: what is not used is passed over."""

import json
from collections.abc import Sequence

from pydantic import BaseModel, JsonValue

from core.types import JsonObject, Message, Role, ToolCall, ToolSpec

NO_PARAMETERS: JsonObject = {"type": "object", "properties": {}}


class _Function(BaseModel):
    name: str
    arguments: str | dict[str, JsonValue]


class _Call(BaseModel):
    id: str | None = None
    function: _Function


class _Part(BaseModel):
    text: str


class ChatMessage(BaseModel):
    """One entry of a `messages` list."""

    role: Role
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None


class _Schema(BaseModel):
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None


class ChatTool(BaseModel):
    """One entry of a `tools` list."""

    function: _Schema


def as_messages(said: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The same as our messages; calls without an id get one, by their place."""
    return tuple(_message(place, one) for place, one in enumerate(said))


def as_tools(offered: Sequence[ChatTool]) -> tuple[ToolSpec, ...]:
    """The same as our specifications; a tool without a schema takes no arguments."""
    return tuple(
        ToolSpec(
            name=one.function.name,
            description=one.function.description or "",
            parameters=one.function.parameters or NO_PARAMETERS,
        )
        for one in offered
    )


def _message(place: int, said: ChatMessage) -> Message:
    parts = said.content or ""
    calls = [
        ToolCall(id=call.id or f"call_{place}_{number}", name=call.function.name, arguments=_text(call.function.arguments))
        for number, call in enumerate(said.tool_calls or [])
    ]
    return Message(
        role=said.role,
        content=parts if isinstance(parts, str) else "".join(part.text for part in parts),
        reasoning=said.reasoning_content,
        tool_calls=tuple(calls),
        tool_call_id=said.tool_call_id,
    )


def _text(arguments: str | JsonObject) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
