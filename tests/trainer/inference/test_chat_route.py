"""Chats over real sockets: tool calls, streams, and exactly the tokens that were sampled."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest

from core.types import JsonObject
from tests.trainer.inference.serving import ScriptedEngine, served
from tests.trainer.inference.tiny import Reference
from tool_call_parsers.rendering import Renderer
from trainer.inference.local_engine import LocalEngine

MESSAGES = [{"role": "system", "content": "You are careful."}, {"role": "user", "content": "Write a.py"}]
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = [{"type": "function", "function": {"name": "write_file", "description": "Write", "parameters": PARAMETERS}}]
CALL = '<tool_call>\n{"name": "write_file", "arguments": {"path": "a.py"}}\n</tool_call>'
WRONG = '<tool_call>\n{"name": "write_file", "arguments": {"path": 1}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": write_file}\n</tool_call>'


@pytest.fixture
def renderer(model_dir: Path) -> Renderer:
    return Renderer.from_directory(model_dir)


@pytest.fixture
async def client(engine: LocalEngine, model_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(engine, model_dir) as client:
        yield client


async def chat(client: httpx.AsyncClient, **body: object) -> JsonObject:
    answer = await client.post("/v1/chat/completions", json={"model": "policy", "messages": MESSAGES, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def chunks(client: httpx.AsyncClient, **body: object) -> list[JsonObject]:
    asked = {"model": "policy", "messages": MESSAGES, "stream": True, **body}
    async with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def message_of(events: Sequence[JsonObject]) -> JsonObject:
    """The message that a client puts together from the deltas."""
    message: JsonObject = {"content": "", "reasoning_content": "", "tool_calls": []}
    for event in events:
        for choice in event["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content", "")
            message["reasoning_content"] += delta.get("reasoning_content", "")
            message["tool_calls"] += [call["function"] for call in delta.get("tool_calls", [])]
    return message


async def test_ids_and_logprobs_are_those_that_were_sampled(client: httpx.AsyncClient, reference: Reference):
    answer = await chat(client, return_token_ids=True, logprobs=True, max_tokens=20, seed=1)
    (choice,) = answer["choices"]
    logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
    expected = reference.logprobs(answer["prompt_token_ids"], choice["token_ids"])
    assert logprobs == pytest.approx(expected.tolist(), abs=1e-5)
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"])


async def test_the_prompt_is_the_chat_template_with_tools(client: httpx.AsyncClient, renderer: Renderer):
    answer = await chat(client, tools=TOOLS, return_token_ids=True, max_tokens=1)
    assert answer["prompt_token_ids"] == renderer.render(MESSAGES, TOOLS)


async def test_tool_choice_none_offers_no_tools(client: httpx.AsyncClient, renderer: Renderer):
    answer = await chat(client, tools=TOOLS, tool_choice="none", return_token_ids=True, max_tokens=1)
    assert answer["prompt_token_ids"] == renderer.render(MESSAGES)


async def test_choices_of_one_request_differ_and_repeat_with_their_seed(client: httpx.AsyncClient):
    first = await chat(client, n=3, seed=5, max_tokens=12, return_token_ids=True)
    again = await chat(client, n=3, seed=5, max_tokens=12, return_token_ids=True)
    ids = [tuple(choice["token_ids"]) for choice in first["choices"]]
    assert len(set(ids)) == 3
    assert [tuple(choice["token_ids"]) for choice in again["choices"]] == ids


async def test_a_stream_adds_up_to_the_whole_answer(client: httpx.AsyncClient):
    asked = {"seed": 2, "max_tokens": 24, "return_token_ids": True, "logprobs": True}
    whole = await chat(client, **asked)
    events = await chunks(client, stream_options={"include_usage": True}, **asked)
    told = [choice for event in events for choice in event["choices"]]
    assert [token for choice in told for token in choice["token_ids"]] == whole["choices"][0]["token_ids"]
    assert sum(len(choice["logprobs"]["content"]) for choice in told if choice["logprobs"]) == 24
    assert (message_of(events)["content"] or None) == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"]["completion_tokens"] == 24


SAID = {
    "text and a call": ("Right.", None, ["write_file"], f"Right.{CALL}"),
    "reasoning, then a call": ("", "hm", ["write_file"], f"<think>\nhm\n</think>\n\n{CALL}"),
    "two calls": ("", None, ["write_file", "write_file"], f"{CALL}\n{CALL}"),
    "a call that the schema refuses": ("", None, ["write_file"], WRONG),
    "a broken block": (BROKEN, None, [], BROKEN),
    "text in many bytes": ("Grüße, 世界 <3", None, [], "Grüße, 世界 <3"),
}


@pytest.mark.parametrize("case", SAID)
async def test_what_was_said_is_found(model_dir: Path, renderer: Renderer, case: str):
    content, reasoning, calls, text = SAID[case]
    async with served(ScriptedEngine([*renderer.encode(text), renderer.eos_ids[0]]), model_dir) as client:
        (choice,) = (await chat(client, tools=TOOLS))["choices"]
    message = choice["message"]
    assert (message["content"] or "") == content
    assert message.get("reasoning_content") == reasoning
    assert [call["function"]["name"] for call in message.get("tool_calls", [])] == calls
    assert choice["finish_reason"] == ("tool_calls" if calls else "stop")


@pytest.mark.parametrize("case", SAID)
async def test_a_stream_says_the_same(model_dir: Path, renderer: Renderer, case: str):
    content, reasoning, calls, text = SAID[case]
    async with served(ScriptedEngine([*renderer.encode(text), renderer.eos_ids[0]]), model_dir) as client:
        events = await chunks(client, tools=TOOLS)
    message = message_of(events)
    assert (message["content"], message["reasoning_content"] or None) == (content, reasoning)
    assert [call["name"] for call in message["tool_calls"]] == calls
    assert events[-1]["choices"][0]["finish_reason"] == ("tool_calls" if calls else "stop")


async def test_without_tools_a_call_is_text(model_dir: Path, renderer: Renderer):
    async with served(ScriptedEngine(renderer.encode(CALL)), model_dir) as client:
        (choice,) = (await chat(client))["choices"]
    assert choice["message"] == {"role": "assistant", "content": CALL}


async def test_text_ends_before_the_stop_text(model_dir: Path, renderer: Renderer):
    async with served(ScriptedEngine(renderer.encode("one two three")), model_dir) as client:
        (choice,) = (await chat(client, stop=[" three", " two"]))["choices"]
        told = message_of(await chunks(client, stop=[" three", " two"]))
    assert choice["message"]["content"] == told["content"] == "one"


async def test_sampling_settings_reach_the_engine(model_dir: Path, renderer: Renderer):
    engine = ScriptedEngine([1])
    async with served(engine, model_dir) as client:
        await chat(client, temperature=0.5, top_p=0.9, max_completion_tokens=7, seed=4, session_id="e", stop="x")
    (asked,) = engine.asked
    params = asked.params
    assert (params.temperature, params.top_p, params.max_tokens, params.seed) == (0.5, 0.9, 7, 4)
    assert (params.stop, params.stop_token_ids, asked.session_id) == (("x",), renderer.eos_ids, "e")


async def test_a_conversation_with_tool_results_is_taken(client: httpx.AsyncClient, renderer: Renderer):
    call = {"id": "c1", "type": "function", "function": {"name": "write_file", "arguments": '{"path": "a.py"}'}}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "written"}]},
    ]
    answer = await chat(client, messages=history, tools=TOOLS, return_token_ids=True, max_tokens=1)
    assert "written" in renderer.decode(answer["prompt_token_ids"])


async def test_a_caller_who_hangs_up_frees_the_place(client: httpx.AsyncClient, engine: LocalEngine):
    tasks = [asyncio.create_task(chat(client, max_tokens=400, ignore_eos=True)) for _ in range(4)]
    while engine.stats().running < 4:
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(30):
        while engine.stats().cancelled < 4:
            await asyncio.sleep(0.001)


async def test_a_reader_who_leaves_a_stream_frees_the_place(client: httpx.AsyncClient, engine: LocalEngine):
    asked = {"messages": MESSAGES, "stream": True, "max_tokens": 400, "ignore_eos": True}
    async with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        await anext(answer.aiter_lines())
    async with asyncio.timeout(30):
        while engine.stats().running:
            await asyncio.sleep(0.001)
