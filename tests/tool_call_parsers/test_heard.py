"""A completion heard id by id says what it says as a whole, and only sampled markers are markers."""

import random
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.types import ToolSpec
from tests.tool_call_parsers.tiny_model import CONTROL, MARKERS, tiny_tokenizer
from tool_call_parsers.base import PARSERS, ParsedCompletion, ToolCallParser
from tool_call_parsers.call_ids import CallIds
from tool_call_parsers.chat_template import ChatTemplate
from tool_call_parsers.encoding import FastEncoding
from tool_call_parsers.heard import GuardedText
from tool_call_parsers.reader import CompletionReader
from tool_call_parsers.rendering import Renderer
from tool_call_parsers.streaming import joined

TOOLS = (ToolSpec(name="run", description="", parameters={"type": "object", "properties": {"path": {"type": "string"}}}),)
CALL = '<tool_call>\n{"name": "run", "arguments": {"path": "a.py"}}\n</tool_call>'
PIECES = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    '{"name": "run", "arguments": {',
    '"path": "世界"',
    "}}",
    " é🌍",
    "\n",
    "x",
]


@cache
def reader(name: str = "hermes") -> CompletionReader:
    tokenizer = tiny_tokenizer(CONTROL, MARKERS)
    end = tokenizer.token_to_id("<|im_end|>")
    assert end is not None
    parser: ToolCallParser = PARSERS.load(name)()
    return CompletionReader(Renderer(FastEncoding(tokenizer), ChatTemplate("", {}), [end]), parser)


def heard(ids: list[int], tools: tuple[ToolSpec, ...], chunk: int, name: str = "hermes") -> ParsedCompletion:
    """What a stream says of these ids, so many at a time."""
    one = reader(name)
    text, stream = GuardedText(one.renderer.vocabulary), one.stream((), tools)
    events = [event for start in range(0, len(ids), chunk) for event in stream.feed(text.push(ids[start : start + chunk]))]
    events += [*stream.feed(text.close()), *stream.close()]
    return joined([text.clean(event) for event in events])


def said(parsed: ParsedCompletion) -> tuple[object, ...]:
    """All but the ids of calls, which are drawn anew."""
    calls = [(call.name, call.arguments) for call in parsed.calls]
    return parsed.reasoning, parsed.content, calls, [(bad.status, bad.text) for bad in parsed.malformed]


@pytest.mark.parametrize("name", ["hermes", "kimi_k2", "openai"])
@pytest.mark.parametrize("tools", [(), TOOLS])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
@given(pieces=st.lists(st.tuples(st.sampled_from([*PIECES, CALL]), st.booleans()), max_size=8))
def test_a_stream_says_what_the_whole_says(name: str, tools: tuple[ToolSpec, ...], chunk: int, pieces: list[tuple[str, bool]]):
    renderer = reader(name).renderer
    ids = [index for text, plain in pieces for index in (renderer.encode_plain if plain else renderer.encode)(text)]
    assert said(heard(ids, tools, chunk, name)) == said(reader(name).read((), ids, tools))


def test_a_marker_that_was_spelled_is_text():
    ids = reader().renderer.encode_plain(CALL)
    assert said(heard(ids, TOOLS, 1)) == (None, CALL, [], [])


def test_a_call_may_quote_markers():
    renderer = reader().renderer
    head, tail = CALL.split("a.py")
    ids = [*renderer.encode(head), *renderer.encode_plain("</tool_call><tool_call>"), *renderer.encode(tail)]
    assert [call.arguments for call in heard(ids, TOOLS, 1).calls] == ['{"path": "</tool_call><tool_call>"}']


def test_content_is_told_before_the_completion_ends():
    text, stream = GuardedText(reader().renderer.vocabulary), reader().stream((), TOOLS)
    events = [event for index in reader().renderer.encode("Hello, world.") for event in stream.feed(text.push([index]))]
    assert joined(events).content == "Hello, world."


def test_many_equal_ids_of_calls_become_distinct():
    ids = CallIds(["functions.f:0"])
    call = heard(reader().renderer.encode(CALL), TOOLS, 1).calls[0].model_copy(update={"id": "functions.f:0"})
    found = [ids.own(call).id for _ in range(1000)]
    assert found == [f"functions.f:{number}" for number in range(1, 1001)]


def test_ids_that_are_no_text_are_heard_to_the_end():
    noise = [random.Random(0).randrange(3, 400) for _ in range(200)]
    renderer = reader().renderer
    assert said(heard(noise, TOOLS, 7)) == said(reader().read((), noise, TOOLS))
    assert heard(noise, (), 1).content == renderer.decode(noise).strip()
