"""OpenAI's own client, as it is, against the endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest

from tests.trainer.inference.serving import ScriptedEngine, served
from tests.trainer.inference.tiny import Reference
from tool_call_parsers.rendering import Renderer
from trainer.inference.base import InferenceEngine
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig

MESSAGES = [{"role": "user", "content": "Write a.py"}]
PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
TOOLS = [{"type": "function", "function": {"name": "write_file", "description": "Write", "parameters": PARAMETERS}}]
CALL = '<tool_call>\n{"name": "write_file", "arguments": {"path": "a.py"}}\n</tool_call>'


@asynccontextmanager
async def client_of(engine: InferenceEngine, model_dir: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    async with served(engine, model_dir) as http:
        client = openai.AsyncOpenAI(base_url=f"{str(http.base_url).rstrip('/')}/v1", api_key="none", max_retries=0, timeout=60)
        async with client:
            yield client


@pytest.fixture
async def client(engine: LocalEngine, model_dir: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(engine, model_dir) as client:
        yield client


async def test_a_chat_brings_its_exact_ids_and_logprobs(client: openai.AsyncOpenAI, reference: Reference):
    chat = await client.chat.completions.create(
        model="policy",
        messages=MESSAGES,
        tools=TOOLS,
        n=2,
        seed=1,
        max_completion_tokens=8,
        logprobs=True,
        extra_body={"return_token_ids": True},
    )
    assert len(chat.choices) == 2
    for choice in chat.choices:
        told = [entry.logprob for entry in choice.logprobs.content]
        expected = reference.logprobs(chat.prompt_token_ids, choice.token_ids)
        assert told == pytest.approx(expected.tolist(), abs=1e-5)
    assert chat.usage.completion_tokens == sum(len(choice.token_ids) for choice in chat.choices)


async def test_a_seed_repeats_and_a_stream_counts_its_tokens(client: openai.AsyncOpenAI):
    asked = {"model": "policy", "messages": MESSAGES, "seed": 7, "max_tokens": 12}
    whole = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == (whole.choices[0].message.content or "")
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


async def test_a_tool_call_arrives_whole_and_in_a_stream(model_dir: Path):
    renderer = Renderer.from_directory(model_dir)
    engine = ScriptedEngine([*renderer.encode(CALL), renderer.eos_ids[0]])
    async with client_of(engine, model_dir) as client:
        chat = await client.chat.completions.create(model="policy", messages=MESSAGES, tools=TOOLS)
        stream = await client.chat.completions.create(model="policy", messages=MESSAGES, tools=TOOLS, stream=True)
        deltas = [choice.delta for chunk in [one async for one in stream] for choice in chunk.choices]
    (call,) = chat.choices[0].message.tool_calls
    (told,) = [call for delta in deltas for call in delta.tool_calls or ()]
    assert (call.function.name, call.function.arguments) == ("write_file", '{"path": "a.py"}')
    assert (told.function.name, told.function.arguments) == (call.function.name, call.function.arguments)
    assert chat.choices[0].finish_reason == "tool_calls"


async def test_text_ends_before_its_stop_text(model_dir: Path):
    engine = ScriptedEngine(Renderer.from_directory(model_dir).encode("one two three"))
    async with client_of(engine, model_dir) as client:
        answer = await client.completions.create(model="policy", prompt="count", stop=[" three", " two"])
    assert answer.choices[0].text == "one"


async def test_completions_take_token_ids(client: openai.AsyncOpenAI):
    answer = await client.completions.create(
        model="policy", prompt=[11, 12, 13], n=2, max_tokens=3, logprobs=1, extra_body={"return_token_ids": True}
    )
    assert [choice.prompt_token_ids for choice in answer.choices] == [[11, 12, 13]] * 2
    assert [len(choice.logprobs.token_logprobs) for choice in answer.choices] == [len(one.token_ids) for one in answer.choices]


async def test_models_are_listed_and_errors_have_their_types(client: openai.AsyncOpenAI):
    assert [model.id async for model in client.models.list()] == ["policy"]
    with pytest.raises(openai.BadRequestError, match="temperature"):
        await client.chat.completions.create(model="policy", messages=MESSAGES, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        await client.models.retrieve("gpt-4")


async def test_a_closed_engine_is_a_server_that_is_busy(model_dir: Path):
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=1))
    await engine.aclose()
    async with client_of(engine, model_dir) as client:
        with pytest.raises(openai.InternalServerError) as refused:
            await client.completions.create(model="policy", prompt=[1, 2])
    assert refused.value.status_code == 503
