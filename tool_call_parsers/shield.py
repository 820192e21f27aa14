"""Messages as a chat template reads them, with what they spell of markers put out of its reach."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pydantic import JsonValue

from core.types import JsonObject, Message, ToolSpec
from tool_call_parsers.call_ids import IdForm

UNTRUSTED_ROLES = ("user", "tool")

Spoken = Message | JsonObject
Offered = ToolSpec | JsonObject


class Template(Protocol):
    """What makes text of a conversation."""

    source: str

    def text(self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, generation_prompt: bool) -> str:
        """The conversation as text. Raises RenderError."""
        ...


class MessageForm(NamedTuple):
    """How a template wants calls: the form of their ids, and arguments as JSON text in place of data."""

    ids: IdForm = IdForm.VERBATIM
    text_arguments: bool = False


AS_DATA = MessageForm()


class Markers(NamedTuple):
    """What a message must not write as a marker: control tokens, and any added token where the text is untrusted."""

    trusted: re.Pattern[str]
    untrusted: re.Pattern[str]


class Piece(NamedTuple):
    """A part of a rendered text; nothing in a `plain` one is a marker."""

    text: str
    plain: bool


class Shield:
    """A conversation as plain data for a template, with placeholders for markers that a message spelled."""

    def __init__(
        self,
        template: Template,
        markers: Markers,
        messages: Sequence[Spoken],
        tools: Sequence[Offered],
        form: MessageForm = AS_DATA,
    ) -> None:
        self._template, self._markers = template, markers
        spoken = [_message_data(message, form) for message in messages]
        offered = [tool.to_openai() if isinstance(tool, ToolSpec) else tool for tool in tools]
        self._found: list[str] = []
        self._mark = ""
        everything = [*spoken, *offered]
        self._spoken = [self._shielded(one, everything, one.get("role") not in UNTRUSTED_ROLES) for one in spoken]
        self._offered = [self._shielded(one, everything, True) for one in offered]

    def text(self, count: int, generation_prompt: bool) -> str:
        """The first `count` messages as text, placeholders in place. Raises RenderError."""
        return self._template.text(self._spoken[:count], self._offered, generation_prompt=generation_prompt)

    def pieces(self, text: str) -> list[Piece]:
        """The text, cut at its placeholders, with what they stand for put back."""
        parts = re.split(rf"{self._mark}(\d+)z", text) if self._found else [text]
        return [
            Piece(self._found[int(part)], True) if number % 2 else Piece(part, False)
            for number, part in enumerate(parts)
            if part
        ]

    def _shielded(self, value: JsonObject, everything: Sequence[JsonObject], trusted: bool) -> JsonObject:
        def walk(item: JsonValue) -> JsonValue:
            if isinstance(item, str):
                return marker.sub(placeholder, item)
            if isinstance(item, list):
                return [walk(one) for one in item]
            if isinstance(item, dict):
                return {marker.sub(placeholder, key): walk(one) for key, one in item.items()}
            return item

        def placeholder(match: re.Match[str]) -> str:
            self._mark = self._mark or _unused_mark(json.dumps(everything) + self._template.source)
            self._found.append(match.group())
            return f"{self._mark}{len(self._found) - 1}z"

        marker = self._markers.trusted if trusted else self._markers.untrusted
        return {key: walk(item) for key, item in value.items()}


def any_of(words: Sequence[str]) -> re.Pattern[str]:
    """A pattern of any of these words, the longest first; of nothing at all where there is none."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")


def _message_data(message: Spoken, form: MessageForm) -> JsonObject:
    """A message as templates read it: reasoning under both of its names, calls in the form that they ask for."""
    data = message.to_openai() if isinstance(message, Message) else dict(message)
    reasoning = next(
        (data[name] for name in ("reasoning_content", "thinking", "reasoning") if data.get(name) is not None), None
    )
    if reasoning is not None:
        data = {"thinking": reasoning, **data, "reasoning_content": reasoning}
    calls = data.get("tool_calls")
    if isinstance(calls, list):
        data["tool_calls"] = [_call_data(call, form) for call in calls if isinstance(call, dict)]
    answered = data.get("tool_call_id")
    if isinstance(answered, str):
        data["tool_call_id"] = form.ids.of(answered)
    return data


def _call_data(call: JsonObject, form: MessageForm) -> JsonValue:
    own = call.get("id")
    if isinstance(own, str):
        call = {**call, "id": form.ids.of(own)}
    function = call.get("function")
    if not isinstance(function, dict) or function.get("arguments") is None:
        return call
    if isinstance(function["arguments"], str) is form.text_arguments:
        return call
    return {**call, "function": {**function, "arguments": _other_form(function.get("arguments"))}}


def _other_form(arguments: JsonValue) -> JsonValue:
    """JSON text as data, data as JSON text; text that is no JSON stays as it is."""
    if not isinstance(arguments, str):
        return json.dumps(arguments, ensure_ascii=False)
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _unused_mark(text: str) -> str:
    number = 0
    while f"zq{number}q" in text:
        number += 1
    return f"zq{number}q"
