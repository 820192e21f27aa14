"""`natgym parse --format NAME FILE`: what a parser sees in a completion: reasoning, content, calls, and what is wrong."""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BadData, ConfigError, UserError
from core.settings import Settings
from core.types import JsonObject, ToolSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.text import Text

    from tool_call_parsers.base import ParsedCompletion, ToolCallParser
    from tool_call_parsers.detection import Detected

LABEL_WIDTH = 11


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", nargs="?", help="a file with the text of one completion, - for standard input")
    parser.add_argument("--list", action="store_true", help="print the table of all formats instead")
    parser.add_argument("--format", metavar="NAME", help="the tool-call format, in any spelling")
    parser.add_argument("--model", metavar="NAME", help="find the format of a model by its name or directory instead")
    parser.add_argument("--tools", type=Path, metavar="FILE", help="a JSON list of OpenAI tools to check the calls against")
    parser.add_argument("--in-reasoning", action="store_true", default=None, help="the prompt opened the reasoning block")
    parser.add_argument("--repair", action="store_true", help="close what was cut off, mend quotes and commas")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Parse and print; 0 where nothing is malformed, else 1."""
    if arguments.list:
        print(format_table())
        return 0
    if arguments.file is None:
        raise UserError("which file? - is standard input (see natgym parse --help)")
    found = _format(arguments)
    parser = found.parser()
    parsed = parser.parse(
        _text(arguments.file),
        _tools(arguments.tools),
        starts_in_reasoning=arguments.in_reasoning,
        repair=arguments.repair,
    )
    if arguments.json:
        print(json.dumps({"format": found.name, "why": found.why, **parsed.model_dump(mode="json")}))
    else:
        _print(found, parsed)
    return 1 if parsed.malformed else 0


def format_table() -> str:
    """Every format as a row of a Markdown table, made from the registry; docs/tool-call-formats.md holds it."""
    from tool_call_parsers.base import PARSERS
    from trainer.inference.call_grammars import SHAPES

    others = {name: sorted(alias for alias, formal in PARSERS.aliases.items() if formal == name) for name in PARSERS.table}
    rows = [
        "| format | other names | a call begins with | reasoning begins with | streamed | can be required |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted(PARSERS.table):
        form = PARSERS.load(name)
        cells = [_code(name), ", ".join(map(_code, others[name])), *_facts(form), "yes" if name in SHAPES else ""]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _facts(form: "Callable[..., ToolCallParser]") -> tuple[str, str, str]:
    """What begins a call, what begins reasoning, and whether calls are told as they close."""
    from tool_call_parsers.streaming import BlockStream

    try:
        parser = form()
    except ConfigError:  # made of a tokenizer's own template
        return "as its tokenizer says", "as its tokenizer says", "at the end"
    reasoning = getattr(parser, "reasoning", None)
    openers = ", ".join(_code(one) for one in getattr(parser, "openers", ()))
    streamed = "as it closes" if isinstance(parser.stream(), BlockStream) else "at the end"
    return openers or "its own header", _code(reasoning.openers[0]) if reasoning else "", streamed


def _code(text: str) -> str:
    """A text as Markdown code inside a table."""
    shown = text.replace("|", "\\|").replace("\n", "⏎")
    return f"```` {shown} ````" if "`" in shown else f"`{shown}`"


@dataclass
class _Token:
    content: str


@dataclass
class _ModelOnDisk:
    """What detection looks at, from a model directory."""

    name_or_path: str
    chat_template: str | dict[str, str] | None
    added_tokens_decoder: dict[int, _Token]


def _format(arguments: argparse.Namespace) -> "Detected":
    """The format, and why it is that one. Raises UserError where none or two were asked for."""
    from tool_call_parsers.detection import Detected, for_model
    from tool_call_parsers.model_files import ModelFiles

    if (arguments.format is None) == (arguments.model is None):
        raise UserError("say --format NAME or --model NAME, one of the two (see natgym parse --help)")
    if arguments.format is not None:
        return Detected(arguments.format, "")
    folder = Path(arguments.model)
    if not folder.is_dir():
        return for_model(arguments.model)
    files = ModelFiles(folder)
    added = {index: _Token(one.content) for index, one in files.tokenizer().get_added_tokens_decoder().items()}
    return for_model(_ModelOnDisk(folder.name, files.template(), added))


def _text(file: str) -> str:
    """The completion. Raises UserError for a file that cannot be read."""
    if file == "-":
        return sys.stdin.buffer.read().decode(errors="replace")
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error


def _tools(file: Path | None) -> tuple[ToolSpec, ...]:
    """The tools of a file. Raises BadData for one that holds no list of OpenAI tools."""
    if file is None:
        return ()
    try:
        rows = json.loads(_text(str(file)))
    except ValueError as error:
        raise BadData(f"{file}: not JSON: {error}") from error
    if not isinstance(rows, list):
        raise BadData(f"{file}: expected a list of tools, found {type(rows).__name__}")
    return tuple(_tool(file, row) for row in rows)


def _tool(file: Path, row: JsonObject) -> ToolSpec:
    function = row.get("function", row) if isinstance(row, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadData(f"{file}: not a tool: {str(row)[:100]}")
    description, parameters = function.get("description"), function.get("parameters")
    return ToolSpec(
        name=str(function["name"]),
        description=description if isinstance(description, str) else "",
        parameters=parameters if isinstance(parameters, dict) else {"type": "object"},
    )


def _print(found: "Detected", parsed: "ParsedCompletion") -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(_line("format", f"{found.name}   ({found.why})" if found.why else found.name, "bold"))
    if parsed.reasoning is not None:
        console.print(_line("reasoning", parsed.reasoning, "dim"))
    if parsed.content:
        console.print(_line("content", parsed.content, ""))
    for call in parsed.calls:
        console.print(_line("call", f"{call.name} {call.arguments}   {call.id}", "green"))
    for bad in parsed.malformed:
        console.print(_line(bad.status.value, f"{bad.problem}\n{bad.text}", "red"))


def _line(label: str, text: str, style: str) -> "Text":
    """A label and a text that a model wrote: as it is, but nothing in it reaches the terminal as a command."""
    from rich.text import Text

    shown = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text)
    indent = "\n" + " " * (LABEL_WIDTH + 1)
    return Text.assemble((f"{label:<{LABEL_WIDTH}} ", "cyan"), (shown.replace("\n", indent), style))
