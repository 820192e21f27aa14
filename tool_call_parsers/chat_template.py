"""Chat templates, rendered to text exactly as transformers' `apply_chat_template` does, without transformers.

A template comes with a model and is untrusted: it runs in jinja2's immutable sandbox and sees plain JSON data only.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import JsonValue

from core.errors import ConfigError, UserError
from core.types import JsonObject


class RenderError(UserError):
    """The chat template refused a conversation, or failed on it."""


class ChatTemplate:
    """One compiled template and its variables: the tokenizer's (`bos_token` ...) and switches (`enable_thinking` ...)."""

    def __init__(self, source: str, variables: Mapping[str, JsonValue]) -> None:
        self.source = source
        self._variables = dict(variables)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ConfigError(f"chat template: {type(error).__name__}: {error}") from error

    def text(self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, generation_prompt: bool) -> str:
        """The conversation as text. Raises RenderError with the template's own words."""
        try:
            return self._template.render(
                messages=list(messages),
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=generation_prompt,
                **self._variables,
            )
        except Exception as error:  # a template is code: it may raise anything
            raise RenderError(f"chat template: {type(error).__name__}: {error}") from error


class TokenizerTemplate:
    """The chat template of a tokenizer of transformers that renders conversations in code of its own."""

    def __init__(self, render: Callable[..., object], variables: Mapping[str, JsonValue]) -> None:
        """`render` is the tokenizer's `apply_chat_template`."""
        self.source = ""
        self._render, self._variables = render, dict(variables)

    def text(self, messages: Sequence[JsonObject], tools: Sequence[JsonObject], *, generation_prompt: bool) -> str:
        """The conversation as text. Raises RenderError with the tokenizer's own words."""
        try:
            text = self._render(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=generation_prompt,
                **self._variables,
            )
        except Exception as error:  # a tokenizer is code: it may raise anything
            raise RenderError(f"chat template: {type(error).__name__}: {error}") from error
        if not isinstance(text, str):
            raise RenderError(f"chat template: expected text, found {type(text).__name__}")
        return text


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote; its body is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012 - the type that jinja2 declares

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    functions: dict[str, Callable[[str], str]] = {"raise_exception": _raise, "strftime_now": _strftime_now}
    environment.globals.update(functions)
    return environment


def _tojson(  # the parameters are those that templates may pass
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> str:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
