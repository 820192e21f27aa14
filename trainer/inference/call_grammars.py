# ruff: noqa: RUF001 - the bars in these markers are full width
"""How each format writes calls, as rules of a grammar in llguidance's dialect of Lark: what a masked sampler may say.

A format whose arguments are JSON is a CallShape alone. One that writes an element for each argument has Elements beside it:
their values are rules made from the tool's schema.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pydantic import JsonValue

from core.errors import UserError
from core.types import JsonObject
from tool_call_parsers.plain_schemas import NOTES
from tool_call_parsers.values import types_of

BLANK, NUMBER = "\0", "\1"
"""In the pieces of a shape: white space or none, and a number."""
TERMINALS = {BLANK: "BLANK", NUMBER: "NUMBER"}
PLACEHOLDER = re.compile(f"[{BLANK}{NUMBER}]")
PLAIN_KEY = re.compile(r"[\w.\-]+")


class Elements(NamedTuple):
    """An argument that is no JSON, in pieces: begin, key, between, value, end. `text` stands around texts only."""

    begin: str
    between: str
    end: str
    text: str = ""
    separator: str = ""
    nested: bool = False
    """Objects and arrays are written in the same way, in braces and brackets; else as JSON."""


class CallShape(NamedTuple):
    """How a format writes calls, in pieces: begin, name, arguments, end; all calls between `open` and `close`."""

    begin: str
    arguments: str
    end: str
    between: str = ""
    open: str = ""
    close: str = ""
    elements: Elements | None = None
    thought: tuple[str, str] | None = None
    """What stands around reasoning, where the parser's reasoning format does not say."""
    answer: str = ""
    """What an answer begins with, in a format where a turn is either an answer or a call."""
    several: bool = True
    """False where a turn holds one call."""


FUNCTION = CallShape("<tool_call>\n<function=", ">\n", "</function>\n</tool_call>", between="\n")
PARAMETER = Elements("<parameter=", ">\n", "\n</parameter>\n")
SECTION = CallShape(
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    open="<｜tool▁calls▁begin｜>",
    close="<｜tool▁calls▁end｜>",
)

SHAPES: dict[str, CallShape] = {
    "hermes": CallShape('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", between="\n"),
    "longcat": CallShape('<longcat_tool_call>{"name": "', '", "arguments": ', "}</longcat_tool_call>", between="\n"),
    "ernie45": CallShape('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", between="\n"),
    "internlm": CallShape('<|action_start|><|plugin|>\n{"name": "', '", "parameters": ', "}<|action_end|>"),
    "jamba": CallShape('{"name": "', '", "arguments": ', "}", ", ", "<tool_calls>[", "]</tool_calls>"),
    "granite": CallShape('{"name": "', '", "arguments": ', "}", ", ", "<|tool_call|>[", "]"),
    "apertus": CallShape('{"', '": ', "}", ", ", "<|tools_prefix|>[", "]<|tools_suffix|>"),
    "mistral": CallShape("[TOOL_CALLS]", "[ARGS]", ""),
    "llama3_json": CallShape('{"name": "', '", "parameters": ', "}", between="; "),
    "deepseek_v3": SECTION._replace(
        begin=f"{SECTION.begin}function{SECTION.arguments}", arguments="\n```json\n", end=f"\n```{SECTION.end}"
    ),
    "deepseek_v31": SECTION,
    "kimi_k2": CallShape(
        "<|tool_call_begin|>functions.",
        f":{NUMBER}<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        open="<|tool_calls_section_begin|>",
        close="<|tool_calls_section_end|>",
    ),
    "openai": CallShape(
        "<|channel|>commentary to=functions.",
        " <|constrain|>json<|message|>",
        "<|call|>",
        thought=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant"),
        answer="<|channel|>final<|message|>",
        several=False,
    ),
    "qwen3_coder": FUNCTION._replace(elements=PARAMETER),
    "nemotron_v3": FUNCTION._replace(elements=PARAMETER),
    "glm47": CallShape(
        "<tool_call>",
        "",
        f"{BLANK}</tool_call>",
        between=BLANK,
        elements=Elements(f"{BLANK}<arg_key>", f"</arg_key>{BLANK}<arg_value>", "</arg_value>"),
    ),
    "gemma4": CallShape(
        "<|tool_call>call:",
        "{",
        "}<tool_call|>",
        elements=Elements("", ":", "", text='<|"|>', separator=",", nested=True),
    ),
}
"""By the name of the parser."""


class Rules:
    """The rules of one grammar as they come. `marker` tells the id of a marker that is a token of its own, else None."""

    def __init__(self, markers: re.Pattern[str], marker: Callable[[str], int | None]) -> None:
        self._markers, self._marker = markers, marker
        self._lines: list[str] = []

    def text(self, start: str) -> str:
        """The whole grammar, which begins with that rule."""
        terminals = ("TEXT: /(.|\\n)*/", "BLANK: /[ \\n]*/", "NUMBER: /[0-9]{1,4}/", 'KEY: /[^\\n<>{}:"]{1,64}/')
        return "\n".join(("%llguidance {}", f"start: {start}", *self._lines, *terminals)) + "\n"

    def rule(self, body: str) -> str:
        """The name of a new rule."""
        name = f"rule_{len(self._lines)}"
        self._lines.append(f"{name}: {body}")
        return name

    def literal(self, text: str) -> str:
        """A text as terminals: markers that are tokens of their own by id, the rest as strings."""
        parts: list[str] = []
        position = 0
        for match in PLACEHOLDER.finditer(text):
            parts += (self._plain(text[position : match.start()]), TERMINALS[match.group()])
            position = match.end()
        return " ".join(filter(None, (*parts, self._plain(text[position:])))) or '""'

    def until(self, closer: str) -> str:
        """Any text up to the next `closer`, and that."""
        literal = self.literal(closer)
        if literal.startswith("<["):
            return f"TEXT {literal}"
        name = f"rule_{len(self._lines)}"
        self._lines.append(f"{name}[suffix={json.dumps(closer)}]: /(.|\\n)*/")
        return name

    def _plain(self, text: str) -> str:
        parts: list[str] = []
        position = 0
        for match in self._markers.finditer(text):
            parts += (_quoted(text[position : match.start()]), f"<[{self._marker(match.group())}]>")
            position = match.end()
        return " ".join(filter(None, (*parts, _quoted(text[position:]))))


class ElementRules:
    """Arguments of a format that writes each as an element, as rules. Raises UserError for what those cannot hold."""

    def __init__(self, rules: Rules, elements: Elements, root: JsonObject) -> None:
        self._rules, self._form, self._root = rules, elements, root
        self._any = ""

    def arguments(self, schema: JsonObject) -> str:
        """The name of the rule of all arguments of a call."""
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return self._anything()
        required = schema.get("required")
        needed = required if isinstance(required, list) else []
        return self._separated([(self._argument(key, one), key in needed) for key, one in properties.items()])

    def _separated(self, parts: list[tuple[str, bool]]) -> str:
        """Parts in order, the needed ones and any of the others, a separator between two."""
        if not self._form.separator:
            return self._rules.rule(" ".join(one if needed else f"{one}?" for one, needed in parts) or '""')
        comma = self._rules.literal(self._form.separator)
        first, rest = '""', '""'  # what is left to say where nothing, and where something, was said before
        for one, needed in reversed(parts):
            told, more = f"{one} {rest}", f"{comma} {one} {rest}"
            first = self._rules.rule(told if needed else f"{told} | {first}")
            rest = self._rules.rule(more if needed else f"{more} | {rest}")
        return first

    def _argument(self, key: str, schema: JsonValue) -> str:
        if not PLAIN_KEY.fullmatch(key):
            raise UserError(f"a strict schema cannot be honoured: no argument of this format can be called {key!r}")
        form = self._form
        return self._rules.rule(f"{self._rules.literal(f'{form.begin}{key}{form.between}')} {self._value(schema, form.end)}")

    def _anything(self) -> str:
        """Arguments of any name, each a text."""
        form, comma = self._form, self._rules.literal(self._form.separator)
        begin, between = self._rules.literal(form.begin), self._rules.literal(form.between)
        one = self._rules.rule(f"{begin} KEY {between} {self._text(form.end)}")
        return self._rules.rule(f"({one} ({comma} {one})*)?")

    def _text(self, end: str) -> str:
        quote = self._form.text
        return f"{self._rules.literal(quote)} {self._rules.until(quote + end)}" if quote else self._rules.until(end)

    def _value(self, schema: JsonValue, end: str) -> str:
        """A value that fits a schema, up to and with the `end` of its element."""
        stated = schema if isinstance(schema, dict) else {}
        known = {key: one for key, one in stated.items() if key not in NOTES}
        kinds = types_of(stated, self._root)
        close = self._rules.literal(end)
        if not kinds:
            return self._text(end)
        if "string" not in kinds:
            return f"{self._structured(known)} {close}"
        choices = known.pop("enum", None)
        if isinstance(choices, list) and known.keys() <= {"type"}:
            quote = self._form.text
            told = (self._rules.literal(f"{quote}{one}{quote}" if isinstance(one, str) else json.dumps(one)) for one in choices)
            return f"({' | '.join(told)}) {close}"
        options = known.get("anyOf", [known])
        plain = isinstance(options, list) and all(isinstance(one, dict) and one.keys() <= {"type", *NOTES} for one in options)
        if not plain:
            raise UserError(f"a strict schema cannot be honoured in this format: {json.dumps(schema)[:200]}")
        return self._text(end)

    def _structured(self, schema: Mapping[str, JsonValue]) -> str:
        """A value that is no text."""
        if self._form.nested and isinstance(properties := schema.get("properties"), dict):
            return f'"{{" {self.arguments({**schema, "properties": properties})} "}}"'
        if self._form.nested and "items" in schema:
            item = self._rules.rule(self._value(schema["items"], ""))
            return f'"[" ({item} ("," {item})*)? "]"'
        if self._form.nested and schema.get("type") in ("object", "array"):
            return f'"{{" {self._anything()} "}}"' if schema["type"] == "object" else f'"[" ({self._text("")})? "]"'
        definitions = {key: self._root[key] for key in ("$defs", "definitions") if key in self._root}
        return f"%json {json.dumps({**schema, **definitions})}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
