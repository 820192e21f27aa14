"""The format that a tokenizer describes itself, read by transformers."""

import pytest

from core.errors import ConfigError
from core.types import JsonObject
from tests.tool_call_parsers.corpora import found
from tool_call_parsers.base import PARSERS
from tool_call_parsers.response_template import ResponseTemplateFormat

pytest.importorskip("transformers")

TEMPLATE: JsonObject = {
    "start_anchor": "<|assistant|>",
    "defaults": {"role": "assistant"},
    "fields": {
        "content": {},
        "thinking": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}
GOOD = '<tool_call>{"name": "f", "arguments": {"k": 1}}</tool_call>'


def read(text: str, inside: bool = False) -> JsonObject:
    return found(ResponseTemplateFormat(TEMPLATE).parse(text, starts_in_reasoning=inside))


def test_reasoning_content_and_calls_are_told_apart():
    assert read(f"<think>why</think>I look.{GOOD}") == {
        "reasoning": "why",
        "content": "I look.",
        "calls": [["f", {"k": 1}]],
        "malformed": [],
    }


def test_the_prompt_may_have_opened_the_reasoning():
    assert read("why</think>No.", inside=True)["reasoning"] == "why"


def test_a_call_that_transformers_refuses_costs_no_other_one():
    told = read(f"<tool_call>{{nope</tool_call>{GOOD}")
    assert (told["calls"], told["malformed"]) == ([["f", {"k": 1}]], ["bad_json"])


def test_without_a_template_there_is_no_format():
    with pytest.raises(ConfigError, match="for_model"):
        PARSERS.load("hf")()


def test_a_template_that_cannot_be_used_is_refused():
    with pytest.raises(ConfigError, match="cannot be used"):
        ResponseTemplateFormat({"fields": {}})
