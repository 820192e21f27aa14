"""A sampler that is masked by a format's grammar writes calls that can be made, whatever it draws."""
# ruff: noqa: RUF001 - DeepSeek's tokens are spelled with full-width bars

import importlib.util
import json
import random
from functools import cache

import pytest

from core.errors import UserError
from core.types import JsonObject, ToolSpec
from tests.tool_call_parsers.family_templates import FAMILIES
from tests.tool_call_parsers.tiny_model import tiny_tokenizer
from tool_call_parsers.base import PARSERS, ParsedCompletion
from tool_call_parsers.chat_template import ChatTemplate
from tool_call_parsers.encoding import FastEncoding
from tool_call_parsers.reader import CompletionReader
from tool_call_parsers.rendering import Renderer
from trainer.inference.constraints import ANY_OBJECT, AllowedCall, Constrainer, Demand

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")

STRICT: JsonObject = {
    "type": "object",
    "properties": {
        "unit": {"type": "string", "enum": ["C", "F"]},
        "days": {"enum": [1, 2, 30]},
        "exact": {"type": "boolean"},
        "place": {"type": "object", "properties": {"id": {"enum": [7, 8]}}, "required": ["id"], "additionalProperties": False},
        "hours": {"type": "array", "items": {"enum": [6, 12]}, "maxItems": 3},
    },
    "required": ["unit", "place"],
    "additionalProperties": False,
}
TOOLS = [ToolSpec(name=name, description="", parameters=STRICT) for name in ("weather", "pressure")]
DEMAND = Demand([AllowedCall(tool.name, STRICT) for tool in TOOLS], required=True)
MOST_TOKENS, WALKS = 700, 12


@cache
def reader_of(family: str) -> CompletionReader:
    built = FAMILIES[family]
    control = ("<|endoftext|>", *(one for one in built.control if one != "<|endoftext|>"))
    delimiters = ('<|"|>',) if family == "gemma4" else ()
    tokenizer = tiny_tokenizer(control, (*built.markers, *delimiters))
    eos = [number for one in built.eos if (number := tokenizer.token_to_id(one)) is not None]
    template = ChatTemplate(built.template, {"bos_token": built.control[0], "eos_token": built.eos[0]})
    parser = PARSERS.load({"qwen3": "hermes", "gpt_oss": "openai"}.get(family, family))()
    return CompletionReader(Renderer(FastEncoding(tokenizer), template, eos), parser)


@cache
def constrainer_of(family: str) -> Constrainer:
    return Constrainer(reader_of(family))


def walk(family: str, demand: Demand, seed: int) -> ParsedCompletion | None:
    """What a sampler without preferences says under the mask, read; None where it goes on and on."""
    reader, chance, sampled = reader_of(family), random.Random(seed), list[int]()
    mask = constrainer_of(family).constraint(demand, (0,))()
    while len(sampled) < MOST_TOKENS:
        bits = mask.allowed()
        allowed = [token for token in range(reader.renderer.vocab_size) if bits[token // 8] >> (token % 8) & 1]
        assert allowed, mask.problem
        ends = [token for token in allowed if token in reader.renderer.eos_ids]
        token = chance.choice(ends or allowed)
        mask.accept(token)
        sampled.append(token)
        if ends:
            return reader.read((0,), sampled, TOOLS)
    return None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_call_of_a_masked_sampler_can_be_made(family: str):
    said = [one for seed in range(WALKS) if (one := walk(family, DEMAND, seed)) is not None]
    assert len(said) > WALKS // 2
    assert all(one.calls and not one.malformed for one in said)
    assert {call.name for one in said for call in one.calls} == {"weather", "pressure"}
    assert {json.loads(call.arguments)["unit"] for one in said for call in one.calls} == {"C", "F"}


def allowed(family: str, demand: Demand, text: str) -> bool:
    """Whether every token of a text is allowed where it comes."""
    renderer = reader_of(family).renderer
    mask = constrainer_of(family).constraint(demand, (0,))()
    for token in renderer.encode(text):
        if not mask.allowed()[token // 8] >> (token % 8) & 1:
            return False
        mask.accept(token)
    return True


TEXTS: JsonObject = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "n": {"type": "integer"},
    },
    "required": ["path"],
}
WRITTEN = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"path": "a\\n</b>", "n": 5}}\n</tool_call><|im_end|>',
    "qwen3_coder": (
        "<tool_call>\n<function=f>\n<parameter=path>\na\n</b>\n</parameter>\n<parameter=n>\n5\n</parameter>\n"
        "</function>\n</tool_call><|im_end|>"
    ),
    "llama3": '{"name": "f", "parameters": {"path": "a", "n": 5}}<|eot_id|>',
    "mistral": '[TOOL_CALLS]f[ARGS]{"path": "a", "n": 5}</s>',
    "deepseek_v31": (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"path": "a"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
        "<｜end▁of▁sentence｜>"
    ),
    "kimi_k2": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:12<|tool_call_argument_begin|>"
        '{"path": "a"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
    ),
    "glm45": (
        "<tool_call>f\n<arg_key>path</arg_key>\n<arg_value>a b</arg_value>\n<arg_key>note</arg_key>"
        "<arg_value>x</arg_value></tool_call><|observation|>"
    ),
    "gpt_oss": '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"path": "a"}<|call|>',
    "gemma4": '<|tool_call>call:f{path:<|"|>a, b<|"|>,n:5}<tool_call|><turn|>',
}


@pytest.mark.parametrize("schema", [TEXTS, ANY_OBJECT], ids=["strict", "any"])
@pytest.mark.parametrize("family", WRITTEN)
def test_what_a_model_writes_is_allowed(family: str, schema: JsonObject):
    text = WRITTEN[family].replace(",n:5", ',n:<|"|>5<|"|>') if schema is ANY_OBJECT else WRITTEN[family]
    assert allowed(family, Demand([AllowedCall("f", schema)], required=True), text)


@pytest.mark.parametrize("family", WRITTEN)
def test_another_tool_is_not_allowed(family: str):
    assert not allowed(family, Demand([AllowedCall("g", TEXTS)], required=True), WRITTEN[family])


@pytest.mark.parametrize("family", ["qwen3_coder", "glm45", "gemma4"])
def test_a_text_with_a_pattern_is_refused_where_texts_are_not_quoted(family: str):
    schema: JsonObject = {"type": "object", "properties": {"day": {"type": "string", "pattern": "^[0-9]+$"}}}
    with pytest.raises(UserError, match="a strict schema cannot be honoured"):
        constrainer_of(family).constraint(Demand([AllowedCall("f", schema)], required=True), (0,))


def test_strict_tools_need_a_choice_where_calls_begin_with_ordinary_text():
    with pytest.raises(UserError, match="strict tools need a tool_choice with 'llama3_json'"):
        constrainer_of("llama3").constraint(DEMAND._replace(required=False), (0,))


def test_an_answer_is_allowed_where_no_call_is_required():
    free = DEMAND._replace(required=False)
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    assert allowed("gpt_oss", free, f"{thought}<|channel|>final<|message|>No.<|return|>")
    assert allowed("glm45", free, "No.<|user|>")
