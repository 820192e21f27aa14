"""LangChain's ChatOpenAI, as its users write it, against the endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.trainer.inference.serving import ScriptedEngine, served
from tests.trainer.inference.tiny import Reference
from tool_call_parsers.rendering import Renderer
from trainer.inference.base import InferenceEngine
from trainer.inference.local_engine import LocalEngine

CALL = '<tool_call>\n{"name": "write_file", "arguments": {"path": "a.py"}}\n</tool_call>'


@tool
def write_file(path: str) -> str:
    """Write a file."""
    return f"{path} written"


@asynccontextmanager
async def chat_of(engine: InferenceEngine, model_dir: Path, **settings: object) -> AsyncIterator[ChatOpenAI]:
    async with served(engine, model_dir) as client, httpx.AsyncClient(trust_env=False, timeout=60) as http:
        url = f"{str(client.base_url).rstrip('/')}/v1"
        yield ChatOpenAI(model="policy", base_url=url, api_key="none", max_retries=0, http_async_client=http, **settings)


async def test_a_loop_of_tools_runs_to_its_end(model_dir: Path):
    renderer = Renderer.from_directory(model_dir)
    engine = ScriptedEngine([*renderer.encode(CALL), renderer.eos_ids[0]])
    async with chat_of(engine, model_dir) as chat:
        bound = chat.bind_tools([write_file], tool_choice="auto")
        said = await bound.ainvoke([HumanMessage("Write a.py")])
        (call,) = said.tool_calls
        result = await write_file.ainvoke(call)
        again = await bound.ainvoke([HumanMessage("Write a.py"), said, result])
    assert isinstance(said, AIMessage)
    assert (call["name"], call["args"]) == ("write_file", {"path": "a.py"})
    assert isinstance(result, ToolMessage)
    assert "a.py written" in renderer.decode(engine.asked[-1].prompt_ids)
    assert again.response_metadata["finish_reason"] == "tool_calls"


async def test_a_stream_brings_the_same_call_and_its_usage(model_dir: Path):
    renderer = Renderer.from_directory(model_dir)
    ids = [*renderer.encode(f"Right.\n{CALL}"), renderer.eos_ids[0]]
    whole = AIMessageChunk(content="")
    async with chat_of(ScriptedEngine(ids), model_dir, stream_usage=True) as chat:
        async for chunk in chat.bind_tools([write_file]).astream([HumanMessage("Write a.py")]):
            whole = whole + chunk
    (call,) = whole.tool_calls
    assert (call["name"], call["args"]) == ("write_file", {"path": "a.py"})
    assert str(whole.content).strip() == "Right."
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == len(ids)


async def test_logprobs_are_exact_and_a_seed_repeats(engine: LocalEngine, model_dir: Path, reference: Reference):
    settings = {"logprobs": True, "seed": 5, "max_tokens": 8, "extra_body": {"return_token_ids": True}}
    async with chat_of(engine, model_dir, temperature=0.8, **settings) as chat:
        first = await chat.ainvoke([HumanMessage("Write a.py")])
        second = await chat.ainvoke([HumanMessage("Write a.py")])
    told = [entry["logprob"] for entry in first.response_metadata["logprobs"]["content"]]
    assert first.content == second.content
    prompt = Renderer.from_directory(model_dir).render([{"role": "user", "content": "Write a.py"}], [])
    again = [entry["logprob"] for entry in second.response_metadata["logprobs"]["content"]]
    assert told == pytest.approx(again, abs=1e-5)
    assert len(prompt) == first.usage_metadata["input_tokens"]
    assert len(told) == first.usage_metadata["output_tokens"] == 8
