"""tool_choice and strict schemas: the sampler is masked, calls are well-formed, and the answer says so."""

import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import torch

from core.errors import UserError
from core.types import JsonObject
from tests.trainer.inference.serving import ScriptedEngine, served
from tool_call_parsers.base import PARSERS
from tool_call_parsers.reader import CompletionReader
from tool_call_parsers.rendering import Renderer
from trainer.inference.constraints import AllowedCall, Constrainer, Demand
from trainer.inference.local_engine import LocalEngine
from trainer.inference.sampling import masked

MESSAGES = [{"role": "user", "content": "How warm is it?"}]
SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}},
    "required": ["unit"],
    "additionalProperties": False,
}


def tool(name: str) -> JsonObject:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": True}}


TOOLS = [tool("temperature"), tool("pressure")]
needs_llguidance = pytest.mark.skipif(importlib.util.find_spec("llguidance") is None, reason="llguidance is not installed")


@pytest.fixture
async def client(engine: LocalEngine, model_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(engine, model_dir) as client:
        yield client


async def ask(client: httpx.AsyncClient, **body: object) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={"messages": MESSAGES, "tools": TOOLS, "seed": 3, **body})


async def refusal(model_dir: Path, **body: object) -> str:
    """What a request is refused with; its status is 400."""
    async with served(ScriptedEngine([1]), model_dir) as client:
        answer = await ask(client, **body)
    assert answer.status_code == 400
    return answer.json()["error"]["message"]


async def calls_of(client: httpx.AsyncClient, choice: object) -> list[JsonObject]:
    """The functions that eight attempts of a random model call; one that begins to think is cut at its length."""
    answer = (await ask(client, tool_choice=choice, parallel_tool_calls=False, n=8)).json()
    done = [one for one in answer["choices"] if one["finish_reason"] != "length"]
    assert all(one["constrained"] and one["finish_reason"] == "tool_calls" for one in done)
    return [call["function"] for one in done for call in one["message"]["tool_calls"]]


@needs_llguidance
async def test_a_random_model_that_must_call_calls_well(client: httpx.AsyncClient):
    calls = await calls_of(client, "required")
    assert {call["name"] for call in calls} == {"temperature", "pressure"}
    assert {json.loads(call["arguments"])["unit"] for call in calls} <= {"C", "F"}


@needs_llguidance
async def test_a_named_tool_is_the_one_that_is_called(client: httpx.AsyncClient):
    calls = await calls_of(client, {"type": "function", "function": {"name": "pressure"}})
    assert {call["name"] for call in calls} == {"pressure"}


@needs_llguidance
async def test_a_stream_says_that_it_was_constrained(client: httpx.AsyncClient):
    body = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "max_tokens": 8, "stream": True}
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]
    assert all(json.loads(line.removeprefix("data: "))["choices"][0]["constrained"] for line in lines)


async def test_sampling_that_was_not_constrained_says_nothing(model_dir: Path):
    loose = [{"type": "function", "function": {"name": "temperature", "parameters": SCHEMA}}]
    engine = ScriptedEngine([1])
    async with served(engine, model_dir) as client:
        answer = (await ask(client, tools=loose, tool_choice="auto")).json()
    assert "constrained" not in answer["choices"][0]
    assert engine.asked[0].constraint is None


async def test_a_tool_that_was_not_offered_is_refused_with_a_near_name(model_dir: Path):
    named = {"type": "function", "function": {"name": "presure"}}
    assert "no tool 'presure'; did you mean 'pressure'" in await refusal(model_dir, tool_choice=named)


async def test_a_call_cannot_be_required_without_tools(model_dir: Path):
    assert "tool_choice 'required' needs tools" in await refusal(model_dir, tools=None, tool_choice="required")


async def test_without_llguidance_the_refusal_says_what_to_install(model_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert "pip install 'natgym[constrained]'" in await refusal(model_dir, tool_choice="required")


def test_a_format_that_cannot_be_constrained_is_refused(model_dir: Path):
    reader = CompletionReader(Renderer.from_directory(model_dir), PARSERS.load("pythonic")())
    with pytest.raises(UserError, match=r"cannot be constrained in the format 'pythonic'; it can in: .*hermes"):
        Constrainer(reader).constraint(Demand([AllowedCall("f", SCHEMA)], required=True), (1,))


def accepted(model_dir: Path, demand: Demand, text: str, prompt: str = "assistant\n") -> bool:
    """Whether every token of a text is allowed where it comes."""
    renderer = Renderer.from_directory(model_dir)
    constrainer = Constrainer(CompletionReader(renderer, PARSERS.load("hermes")()))
    mask = constrainer.constraint(demand, tuple(renderer.encode(prompt)))()
    for token in renderer.encode(text):
        bits = mask.allowed()
        if mask.problem or not (bits[token // 8] >> (token % 8)) & 1:
            return False
        mask.accept(token)
    return not mask.problem


def called(name: str, arguments: str = '{"unit": "C"}') -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


FREE = Demand([AllowedCall("f", SCHEMA), AllowedCall("g", SCHEMA)], required=False)
FORCED = FREE._replace(required=True)


@needs_llguidance
@pytest.mark.parametrize(
    ("demand", "prompt", "text", "expected"),
    [
        (FREE, "", "Hello.<|im_end|>", True),
        (FREE, "", f"Hello.\n{called('f')}\n{called('g')}<|im_end|>", True),
        (FREE, "", f"<think>\nhm\n</think>\n\nHello.{called('g')}<|im_end|>", True),
        (FREE, "", called("h"), False),
        (FREE, "", called("f", '{"unit": "K"}'), False),
        (FORCED, "", "Hello.<|im_end|>", False),
        (FORCED, "", f"{called('f')}\n{called('g')}<|im_end|>", True),
        (FORCED, "", f"<think>\nhm\n</think>\n\n{called('g')}<|im_end|>", True),
        (FORCED, "<think>\n", f"hm\n</think>\n\n{called('g')}<|im_end|>", True),
        (FORCED._replace(parallel=False), "", f"{called('f')}\n{called('g')}", False),
    ],
)
def test_what_may_be_said(model_dir: Path, demand: Demand, prompt: str, text: str, expected: bool):
    assert accepted(model_dir, demand, text, f"assistant\n{prompt}") is expected


def test_a_masked_row_keeps_what_is_allowed():
    logits = torch.zeros(2, 10)
    out = masked(logits, [None, bytes([0b00000101])])
    assert out[0].tolist() == [0.0] * 10
    assert [index for index in range(10) if out[1, index] == 0] == [0, 2]
    assert logits.sum() == 0
