"""The corpora of all formats, and the cases of other projects where their folder lies beside the checkout."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from core.types import JsonObject, ToolSpec
from tool_call_parsers.base import PARSERS, ParsedCompletion, ToolCallParser

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tool_call_parsers/corpus"
SHARED = ROOT.parent / "shared/data"


class Case(NamedTuple):
    """One completion of a corpus and what it holds."""

    format: str
    tools: list[ToolSpec]
    row: JsonObject

    @property
    def label(self) -> str:
        return f"{self.format}: {self.row['case']}"

    @property
    def text(self) -> str:
        return str(self.row["text"])

    def options(self) -> JsonObject:
        """The keyword arguments of `parse` and `stream`."""
        return {key: self.row[key] for key in ("starts_in_reasoning", "repair") if key in self.row}

    def expected(self) -> JsonObject:
        """As `found` tells a completion."""
        defaults: JsonObject = {"reasoning": None, "content": "", "calls": [], "malformed": []}
        return {key: self.row.get(key, default) for key, default in defaults.items()}


def corpus(name: str) -> list[Case]:
    """The cases of `corpus/NAME.jsonl`: the first line holds the tools, each other line a case."""
    header, *rows = [json.loads(line) for line in (CORPUS / f"{name}.jsonl").read_text("utf-8").splitlines()]
    tools = [ToolSpec.model_validate(tool) for tool in header["tools"]]
    return [Case(name, tools, row) for row in rows]


def corpora() -> list[Case]:
    """The cases of all formats."""
    return [case for path in sorted(CORPUS.glob("*.jsonl")) for case in corpus(path.stem)]


def found(parsed: ParsedCompletion) -> JsonObject:
    """What a completion holds, in the terms of the corpus."""
    return {
        "reasoning": parsed.reasoning,
        "content": parsed.content,
        "calls": [[call.name, json.loads(call.arguments)] for call in parsed.calls],
        "malformed": [bad.status.value for bad in parsed.malformed],
    }


def parser_of(name: str) -> ToolCallParser:
    """The parser of that name."""
    return PARSERS.load(name)()


def shared_rows(name: str) -> list[JsonObject]:
    """The rows of a file of cases of other projects; none where it is not there."""
    path = SHARED / name
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def specs(row: JsonObject) -> list[ToolSpec]:
    """The tools of a case in OpenAI's form."""
    functions = [tool.get("function", tool) for tool in row.get("tools") or []]
    return [
        ToolSpec(
            name=function["name"],
            description=function.get("description") or "",
            parameters=function.get("parameters") or {"type": "object", "properties": {}},
        )
        for function in functions
    ]


def problem_of(row: JsonObject, *, repair: bool = False) -> str:
    """What a case of another project asserts and is not so; an empty string where all of it is.

    Calls whose arguments those projects return although they are no JSON must be malformed here. Calls that the tools
    refuse count as found: those projects check nothing; where some are refused, the order of all is not compared.
    Where the case is marked lenient the text is repaired.
    """
    if row.get("tool_choice") == "none":
        return ""
    parsed = parser_of(row["parser"]).parse(
        row["text"],
        specs(row),
        starts_in_reasoning=bool(row.get("starts_in_reasoning")),
        repair=repair or "LENIENT" in row.get("note", ""),
    )
    refused = [bad.call for bad in parsed.malformed if bad.call is not None]
    calls = [*parsed.calls, *refused]
    expected = [call for call in row["expect_calls"] or [] if isinstance(call.get("arguments"), dict)]
    broken = len(row["expect_calls"] or []) - len(expected)
    if parsed.calls and refused:
        calls.sort(key=lambda call: call.name)
        expected.sort(key=lambda call: call["name"])
    asserted = set(row["asserted"])
    told = {
        "count": len(calls) == len(expected) and len(parsed.malformed) >= broken,
        "no_calls": not parsed.calls,
        "names": [call.name for call in calls] == [call["name"] for call in expected],
        "args": [json.loads(call.arguments) for call in calls] == [call["arguments"] for call in expected],
        "content": parsed.content == (row["expect_content"] or ""),
        "reasoning": (parsed.reasoning or "") == (row.get("expect_reasoning") or ""),
    }
    wrong = sorted(field for field in asserted if not told.get(field, True))
    return f"{', '.join(wrong)}: {found(parsed)}" if wrong else ""


def steps(parser: ToolCallParser, text: str, tools: list[ToolSpec]) -> int:
    """Calls of functions while parsing: a measure of work that does not depend on the machine."""
    counted = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        parser.parse(text, tools)
    finally:
        sys.setprofile(None)
    return counted
