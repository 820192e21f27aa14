"""gpt-oss completions beside OpenAI's own reader, and where that one raises."""

import json

import pytest

from tests.tool_call_parsers.corpora import corpus, found, parser_of
from tool_call_parsers.harmony import Harmony

CALL = "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{{}}<|call|>"
COMPARED = [case for case in corpus("openai") if "malformed" not in case.row and "<|channel|>" in case.text]


@pytest.mark.parametrize("name", ["web-browsing", "math.sum", "a/b", "ünï"])
def test_a_tool_may_have_any_name(name: str):
    assert [call.name for call in Harmony().parse(CALL.format(name=name)).calls] == [name]


def test_a_header_that_nobody_expects_raises_nothing():
    parsed = Harmony().parse(
        "<|channel|>commentary to=functions.a to=functions.b <|constrain|><|constrain|><|message|>{}<|call|>"
    )
    assert [call.name for call in parsed.calls] == ["a"]


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.label)
def test_calls_are_those_that_oss_harmony_finds(case):
    harmony = pytest.importorskip("openai_harmony")
    if case.row.get("starts_in_reasoning") or case.row.get("repair") or "a marker inside" in case.label:
        pytest.skip("oss-harmony reads whole messages, and markers inside of strings as markers")
    encoding = harmony.load_harmony_encoding(harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
    ids = encoding.encode(case.text.removeprefix("<|start|>assistant"), allowed_special="all")
    try:
        messages = encoding.parse_messages_from_completion_tokens(ids, harmony.Role.ASSISTANT)
    except harmony.HarmonyError:
        pytest.skip("oss-harmony raises on it")
    theirs = [
        [message.recipient.removeprefix("functions."), json.loads(message.content[0].text, strict=False)]
        for message in messages
        if message.recipient not in (None, "assistant")
    ]
    assert found(parser_of("openai").parse(case.text))["calls"] == theirs
