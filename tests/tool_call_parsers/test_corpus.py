"""Every format against its own corpus, whole and in pieces; and against the cases of other projects."""

import re
from pathlib import Path

import pytest

from core.types import JsonObject
from tests.tool_call_parsers.corpora import CORPUS, Case, corpora, corpus, found, parser_of, problem_of, shared_rows, specs
from tool_call_parsers.registry import FORMATS
from tool_call_parsers.streaming import joined

CASES = corpora()
ROWS = shared_rows("parser_cases.jsonl")
CHUNKS = (1, 3, 7)
WITHOUT_CORPUS = {"response_template"}
"""Its format is another one with each tokenizer; see test_response_template."""
SMALLEST_CORPUS = 12
REPAIRED = frozenset({70, 609, 492, 493, 494, 496})
"""Cases of what other projects mend unasked: here the call is reported, and `repair` gives what they give."""
EXPLAINED = frozenset({158, 159, 209, 243, 264, 514})
"""Cases of other projects whose assertion is not held to. The page on formats says why, for these and those repaired."""
PAGE = Path(__file__).parents[2] / "docs/tool-call-formats.md"


@pytest.mark.parametrize("name", sorted(set(FORMATS) - WITHOUT_CORPUS))
def test_a_format_has_a_corpus(name: str):
    assert len(corpus(name)) >= SMALLEST_CORPUS


def test_a_corpus_belongs_to_a_format():
    assert {path.stem for path in CORPUS.glob("*.jsonl")} <= set(FORMATS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_completion_is_read(case: Case):
    assert found(parser_of(case.format).parse(case.text, case.tools, **case.options())) == case.expected()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_stream_says_the_same(case: Case):
    assert [_streamed(case, size) for size in (*CHUNKS, len(case.text))] == [case.expected()] * (len(CHUNKS) + 1)


def _streamed(case: Case, size: int) -> JsonObject:
    stream = parser_of(case.format).stream(case.tools, **case.options())
    events = []
    for start in range(0, len(case.text), max(size, 1)):
        events += stream.feed(case.text[start : start + size])
    return found(joined([*events, *stream.close()]))


@pytest.mark.skipif(not ROWS, reason="the cases of other projects are not here")
def test_the_cases_of_other_projects_hold_but_for_those_explained():
    problems = {row["id"]: problem for row in ROWS if (problem := problem_of(row))}
    assert {number: problem for number, problem in problems.items() if number not in EXPLAINED | REPAIRED} == {}


@pytest.mark.skipif(not ROWS, reason="the cases of other projects are not here")
def test_no_case_is_explained_that_holds():
    assert {row["id"] for row in ROWS if problem_of(row)} == EXPLAINED | REPAIRED


@pytest.mark.parametrize("row", [row for row in ROWS if row["id"] in REPAIRED], ids=lambda row: f"{row['parser']} {row['id']}")
def test_repair_gives_what_other_projects_give_unasked(row: JsonObject):
    assert problem_of(row, repair=True) == ""


def test_the_page_on_formats_explains_the_same_cases():
    section = PAGE.read_text(encoding="utf-8").partition("## Where this differs")[2]
    numbers = re.findall(r"^\| (\d[\d, ]*) `", section, re.MULTILINE)
    assert {int(number) for listed in numbers for number in listed.split(",")} == EXPLAINED | REPAIRED


@pytest.mark.parametrize("row", shared_rows("parser_issue_strings.jsonl"), ids=lambda row: f"{row['parser']} {row['ref']}")
def test_strings_from_bug_reports(row: JsonObject):
    parsed = parser_of(row["parser"]).parse(row["text"], specs(row))
    assert found(parsed)["calls"] == [[call["name"], call["arguments"]] for call in row["want_calls"]]
