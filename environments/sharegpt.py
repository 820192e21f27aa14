"""Conversations in ShareGPT form, as Hermes' function-calling data has them, both ways.

    {"from": "system", "value": "... <tools>[...]</tools> ..."}   {"from": "human", ...}
    {"from": "gpt", "value": "<think>..</think>text<tool_call>..</tool_call>"}
    {"from": "tool", "value": "<tool_response>..</tool_response>"}

Ids of calls are not part of the form: reading gives new ones, in order.
"""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from core.errors import BadData
from core.types import JsonObject, Message, Role, ToolCall, ToolSpec
from tool_call_parsers.hermes import HermesParser

SPEAKERS = {Role.SYSTEM: "system", Role.USER: "human", Role.ASSISTANT: "gpt", Role.TOOL: "tool"}
ROLES = {speaker: role for role, speaker in SPEAKERS.items()}
TOOLS_BEFORE = (
    "You are a function calling AI model. You are provided with function signatures within <tools></tools> XML tags. "
    "You may call one or more functions to assist with the user query. Here are the available tools:\n<tools>\n"
)
TOOLS_AFTER = (
    "\n</tools>\nFor each function call return a JSON object with the function's name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>'
)
ANSWER_BEFORE, ANSWER_AFTER = "<tool_response>\n", "\n</tool_response>"


class Conversation(NamedTuple):
    """Messages and the tools that were offered in them."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()


def to_sharegpt(conversation: Conversation) -> list[dict[str, str]]:
    """The `conversations` list of a ShareGPT row; the tools stand in its first system message."""
    messages, tools = conversation
    entries = [{"from": SPEAKERS[message.role], "value": _value(message)} for message in messages]
    if not tools:
        return entries
    listed = "\n".join(json.dumps(tool.to_openai(), ensure_ascii=False) for tool in tools)
    header = f"{TOOLS_BEFORE}{listed}{TOOLS_AFTER}"
    if entries and entries[0]["from"] == "system":
        own = entries.pop(0)["value"]
        header = f"{own}\n\n{header}"
    return [{"from": "system", "value": header}, *entries]


def from_sharegpt(entries: Sequence[JsonObject]) -> Conversation:
    """The conversation of a `conversations` list. Raises BadData naming the entry that is none."""
    read = [_entry(number, entry) for number, entry in enumerate(entries)]
    tools: tuple[ToolSpec, ...] = ()
    if read and read[0].role is Role.SYSTEM:
        system, tools = _split_tools(read[0].content)
        read[0] = Message(role=Role.SYSTEM, content=system)
        read = read if system else read[1:]
    return Conversation(tuple(_with_ids(read)), tools)


def spoken_text(message: Message) -> str:
    """What a hermes-format model sampled as this message: its thoughts, its words, its calls."""
    thought = f"<think>\n{message.reasoning}\n</think>\n" if message.reasoning is not None else ""
    calls = [_call_text(call) for call in message.tool_calls]
    return thought + "\n".join(part for part in (message.content, *calls) if part)


def _value(message: Message) -> str:
    return f"{ANSWER_BEFORE}{message.content}{ANSWER_AFTER}" if message.role is Role.TOOL else spoken_text(message)


def _call_text(call: ToolCall) -> str:
    return f'<tool_call>\n{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}}}\n</tool_call>'


def _entry(number: int, entry: JsonObject) -> Message:
    speaker, value = entry.get("from"), entry.get("value")
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None or not isinstance(value, str):
        raise BadData(f"conversations[{number}]: expected from (one of {', '.join(ROLES)}) and value, found {str(entry)[:80]}")
    if role is Role.ASSISTANT:
        return HermesParser().parse(value).message()
    if role is Role.TOOL:
        return Message(role=role, content=value.removeprefix(ANSWER_BEFORE).removesuffix(ANSWER_AFTER))
    return Message(role=role, content=value)


def _split_tools(system: str) -> tuple[str, tuple[ToolSpec, ...]]:
    """A system message without its list of tools, and the tools; the message itself where it lists none."""
    own, before, rest = system.rpartition(TOOLS_BEFORE)
    listed, after, _ = rest.partition(TOOLS_AFTER)
    if not before or not after:
        return system, ()
    try:
        specs = tuple(ToolSpec.model_validate(json.loads(line)["function"]) for line in listed.splitlines())
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"conversations[0]: a line of <tools> is no tool: {error}") from error
    return own.removesuffix("\n\n"), specs


def _with_ids(messages: Sequence[Message]) -> Iterator[Message]:
    """Tool messages answer the calls before them, in order."""
    waiting: list[str] = []
    for message in messages:
        if message.role is Role.ASSISTANT:
            waiting = [call.id for call in message.tool_calls]
        if message.role is Role.TOOL and waiting:
            yield message.model_copy(update={"tool_call_id": waiting.pop(0)})
        else:
            yield message
