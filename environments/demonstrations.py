"""What `natgym process` wrote, read again to be learnt from: conversations, and the text of everything that was sampled.

A row is told by its fields, whatever made it: `conversations` (ShareGPT), `messages` (OpenAI), `trajectories` (a
ScoredGroup: each of its scored episodes) or `prompt` and `chosen` (a pair: the better one).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from core.errors import BadData
from core.types import JsonObject, Message, Role, ScoredGroup, ToolSpec
from environments.data_formats import AS_TEXT
from environments.openai_messages import ChatMessage, ChatTool, as_messages, as_tools
from environments.rows import BrokenRows, Row, parsed
from environments.sharegpt import from_sharegpt, spoken_text
from tool_call_parsers.rendering import history

M = TypeVar("M", bound=BaseModel)


class Demonstration(NamedTuple):
    """A conversation to learn from."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    spoken: tuple[str, ...]
    """The text that the assistant sampled, one a message of its own: thoughts, words and calls in the form of hermes."""


class _ShareGptRow(BaseModel):
    conversations: list[JsonObject]


class _ChatRow(BaseModel):
    messages: list[ChatMessage]
    tools: list[ChatTool] | None = None


class _PairRow(BaseModel):
    prompt: list[ChatMessage]
    chosen: list[ChatMessage] = Field(min_length=1)
    tools: list[ChatTool] | None = None


def read_demonstrations(path: Path, broken: BrokenRows = BrokenRows.REFUSE) -> Iterator[tuple[int, tuple[Demonstration, ...]]]:
    """The conversations of each row with its number from 1; JSON lines, or parquet with JSON in the columns AS_TEXT.

    Raises BadData naming file, row and field.
    """
    return parsed(path, demonstrations_of, broken)


def demonstrations_of(row: Row) -> tuple[Demonstration, ...]:
    """The conversations of one row; several in a group, none where all of its episodes were lost. Raises ValueError."""
    data = _decoded(row)
    read = next((read for field, read in READERS.items() if field in data), None)
    if read is None:
        raise ValueError(f"expected a field {', '.join(READERS)}; found {', '.join(data) or 'no JSON object'}")
    return tuple(_checked(one) for one in read(data))


def _from_conversations(row: JsonObject) -> Iterator[Demonstration]:
    entries = _validated(_ShareGptRow, row).conversations
    try:
        messages, tools = from_sharegpt(entries)
    except BadData as error:
        raise ValueError(str(error)) from error
    yield Demonstration(messages, tools, tuple(str(one["value"]) for one in entries if one["from"] == "gpt"))


def _from_messages(row: JsonObject) -> Iterator[Demonstration]:
    found = _validated(_ChatRow, row)
    yield _demonstration(as_messages(found.messages), as_tools(found.tools or []))


def _from_pair(row: JsonObject) -> Iterator[Demonstration]:
    found = _validated(_PairRow, row)
    yield _demonstration(as_messages([*found.prompt, *found.chosen]), as_tools(found.tools or []))


def _from_group(row: JsonObject) -> Iterator[Demonstration]:
    group = ScoredGroup.model_validate_json(json.dumps(row))
    for one in group.scored:
        yield _demonstration(history(group.task.messages, one.turns), group.task.tools)


def _demonstration(messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> Demonstration:
    return Demonstration(messages, tools, tuple(spoken_text(one) for one in messages if one.role is Role.ASSISTANT))


def _checked(one: Demonstration) -> Demonstration:
    """A conversation in which there is something to learn, after something that was asked. Raises ValueError."""
    roles = [message.role for message in one.messages]
    if Role.ASSISTANT not in roles:
        raise ValueError("the conversation: expected at least one message of the assistant, found none")
    if roles[0] is Role.ASSISTANT:
        raise ValueError("the conversation: expected a message before the assistant's first one, found none")
    return one


def _decoded(row: Row) -> JsonObject:
    """The row with the columns that parquet holds as JSON in a string. Raises ValueError naming one that is none."""
    data: JsonObject = {}
    for name, value in row.items():
        try:
            data[name] = json.loads(value) if name in AS_TEXT and isinstance(value, str) else value
        except ValueError as error:
            raise ValueError(f"{name}: expected JSON: {error}") from error
    return data


def _validated(kind: type[M], row: Mapping[str, object]) -> M:
    """The row as a model of that type. Raises ValueError naming the field and what was found."""
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}, found {str(first['input'])[:60]!r}") from error


READERS: dict[str, Callable[[JsonObject], Iterator[Demonstration]]] = {
    "conversations": _from_conversations,
    "messages": _from_messages,
    "trajectories": _from_group,
    "chosen": _from_pair,
}
