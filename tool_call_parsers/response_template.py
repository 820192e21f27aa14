"""The format that a tokenizer describes itself: `response_template`, read by transformers 5.

The template says where reasoning, content and tool calls stand and how each is read. transformers raises on a call that it
cannot read; here that one call is reported, and what stands beside it is kept.
"""

import json
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol

from core.errors import ConfigError, MissingRuntime
from core.types import JsonObject
from tool_call_parsers.base import CallStatus, MalformedCall
from tool_call_parsers.grammar import Format, FoundCall, Item, Reading, Split
from tool_call_parsers.json_calls import NotACall, read_arguments_at
from tool_call_parsers.schemas import object_problem

if TYPE_CHECKING:
    from transformers.utils.chat_parsing import ResponseParser

REASONING = ("reasoning_content", "thinking", "reasoning")
CALLS = "tool_calls"


class Refused(NamedTuple):
    """A region that could not be read: its field, its text and why."""

    field: str
    text: str
    problem: str


class WithTemplate(Protocol):
    """A tokenizer that has a template."""

    response_template: JsonObject


class ResponseTemplateFormat(Format):
    """A parser made of one template."""

    name = "response_template"

    def __init__(self, template: JsonObject | None = None) -> None:
        """Raises ConfigError where there is no template, or none that can be used; MissingRuntime without transformers."""
        if template is None:
            raise ConfigError("the format 'response_template' is made of a tokenizer's template: for_model(tokenizer).parser()")
        try:
            module = import_module("transformers.utils.chat_parsing.response_templates")
        except ModuleNotFoundError as error:
            raise MissingRuntime("the format 'response_template' needs transformers 5: pip install 'natgym[train]'") from error
        try:
            self._template = module.load_response_template(template)
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"the response template cannot be used: {error}") from error

    @classmethod
    def of(cls, tokenizer: WithTemplate) -> "ResponseTemplateFormat":
        """The format of a tokenizer. Raises ConfigError where it has no template."""
        return cls(getattr(tokenizer, "response_template", None))

    def split(self, text: str, reading: Reading) -> Split:
        """What transformers makes of the text; regions that it refuses are malformed calls, or text."""
        tools = [tool.to_openai() for tool in reading.tools]
        refused: list[Refused] = []
        reader = _tolerant(self._template, self._prefix(bool(reading.starts_in_reasoning)), tools, refused)
        try:
            reader.feed(text)
            message, _ = reader.finalize()
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return Split(None, self.trimmed(text))
        content, items = [_text(message.get("content"))], []
        for field, body, problem in refused:
            if field == CALLS:
                items.append(MalformedCall(text=body, status=CallStatus.BAD_JSON, problem=problem))
            else:
                content.append(body)
        calls = message.get(CALLS)
        items[:0] = [_item(call) for call in (calls if isinstance(calls, list) else [calls] if calls else [])]
        reasoning = next((_text(message[key]) for key in REASONING if message.get(key) is not None), None)
        return Split(reasoning, self.trimmed("".join(content)), tuple(items))

    def _prefix(self, starts_in_reasoning: bool) -> str:
        """The end of a prompt, as far as the template looks at it."""
        anchor = next(iter(self._template.start_anchor_literals or ()), "")
        field = next((self._template.fields[key] for key in REASONING if key in self._template.fields), None)
        opener = next(iter(field.open_literals or ()), "") if field is not None and starts_in_reasoning else ""
        return anchor + opener if anchor else ""


def _tolerant(template: object, prefix: str, tools: list[JsonObject], refused: list[Refused]) -> "ResponseParser":
    """A reader of transformers that goes on behind a region that it cannot read, and adds it to `refused`."""
    base = import_module("transformers.utils.chat_parsing").ResponseParser

    class Tolerant(base):
        def _close_current(self, events: list) -> None:
            field, body = self._current, self._body
            try:
                super()._close_current(events)
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
                refused.append(Refused(field or "", body, f"{type(error).__name__}: {error}"[:400]))
                self._reset_to_implicit()

    return Tolerant(template, prefix=prefix, tools=tools)


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _item(call: object) -> Item:
    """An entry of `tool_calls` as templates make it, in OpenAI's form or flat."""
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    arguments = (function.get("arguments", {}) or {}) if isinstance(function, dict) else None
    written = json.dumps(call, ensure_ascii=False, default=str)
    if not isinstance(name, str) or not name:
        return MalformedCall(text=written, status=CallStatus.BAD_JSON, problem="the call has no name")
    if isinstance(arguments, str):
        try:
            text, value, _ = read_arguments_at(arguments, 0)
            return FoundCall(name, text, value, text=written)
        except NotACall as broken:
            return MalformedCall(text=written, status=CallStatus.BAD_JSON, problem=str(broken))
    if not isinstance(arguments, dict):
        return MalformedCall(text=written, status=CallStatus.BAD_JSON, problem="the arguments are no object")
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        problem = object_problem(arguments, text)
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error)
        text = ""
    if problem:
        return MalformedCall(text=written, status=CallStatus.BAD_JSON, problem=f"the arguments cannot be used: {problem}")
    return FoundCall(name, text, arguments, text=written)
