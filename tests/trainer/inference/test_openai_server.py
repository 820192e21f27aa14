"""The other endpoints over real sockets, and what they answer to bad input."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file

from tests.trainer.inference.serving import served
from tests.trainer.inference.tiny import Reference, some_tokens
from tool_call_parsers.rendering import Renderer
from trainer.inference.local_engine import LocalEngine, LocalEngineConfig

PROMPT = list(some_tokens(30))


@pytest.fixture
async def client(engine: LocalEngine, model_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(engine, model_dir) as client:
        yield client


async def generate(client: httpx.AsyncClient, **body: object) -> dict:
    answer = await client.post("/generate", json={"input_ids": PROMPT, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_generate_returns_ids_and_exact_logprobs(client: httpx.AsyncClient, reference: Reference):
    answer = await generate(client, sampling_params={"max_new_tokens": 20, "temperature": 0.8}, return_logprob=True)
    entries = answer["meta_info"]["output_token_logprobs"]
    assert [entry[1] for entry in entries] == answer["output_ids"]
    expected = reference.logprobs(PROMPT, answer["output_ids"], temperature=0.8)
    assert [entry[0] for entry in entries] == pytest.approx(expected.tolist(), abs=1e-5)


async def test_generate_says_why_it_ended(client: httpx.AsyncClient, reference: Reference):
    (likeliest,) = reference.greedy(PROMPT, 1)
    params = {"max_new_tokens": 4, "temperature": 0, "ignore_eos": True}
    cut = await generate(client, sampling_params=params)
    stopped = await generate(client, sampling_params={**params, "stop_token_ids": [likeliest]})
    assert cut["meta_info"]["finish_reason"] == {"type": "length", "length": 4}
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": likeliest}


async def test_generate_names_the_weights_of_every_token(client: httpx.AsyncClient, engine: LocalEngine, other_model_dir: Path):
    await engine.publish(load_file(other_model_dir / "model.safetensors"), 9)
    meta = (await generate(client, sampling_params={"max_new_tokens": 5, "ignore_eos": True}))["meta_info"]
    assert meta["weight_version"] == "9"
    assert meta["weight_versions"] == [{"version": 9, "start": 0, "end": 5}]


async def test_a_session_reuses_the_turn_before(client: httpx.AsyncClient):
    params = {"max_new_tokens": 5, "ignore_eos": True}
    first = await generate(client, session_id="episode", sampling_params=params)
    longer = [*PROMPT, *first["output_ids"], 11, 12]
    second = await generate(client, input_ids=longer, session_id="episode", sampling_params=params)
    assert second["meta_info"]["cached_tokens"] == len(PROMPT) + 4


async def test_n_gives_a_list(client: httpx.AsyncClient):
    answer = await client.post("/generate", json={"input_ids": PROMPT, "sampling_params": {"n": 3, "max_new_tokens": 2}})
    assert len(answer.json()) == 3


async def test_generate_in_vllms_shape_returns_exact_logprobs(client: httpx.AsyncClient, reference: Reference):
    asked = {"prompt": {"prompt_token_ids": PROMPT}, "logprobs": 0, "n": 2, "max_tokens": 6, "min_p": 0.0, "ignore_eos": True}
    answer = (await client.post("/generate", json=asked)).json()
    assert answer["prompt_token_ids"] == PROMPT
    assert answer["finish_reasons"] == ["length", "length"]
    for ids, entries in zip(answer["token_ids"], answer["logprobs"], strict=True):
        assert [list(entry[0]) for entry in entries] == [[str(token)] for token in ids]
        told = [logprob for entry in entries for logprob in entry[0].values()]
        assert told == pytest.approx(reference.logprobs(PROMPT, ids).tolist(), abs=1e-5)


async def test_both_shapes_of_generate_say_the_same(client: httpx.AsyncClient):
    text = "You are a careful agent."
    common = {"temperature": 0, "ignore_eos": True}
    vllm = (await client.post("/generate", json={"prompt": text, "max_tokens": 5, **common})).json()
    sglang = await client.post("/generate", json={"text": text, "sampling_params": {"max_new_tokens": 5, **common}})
    assert vllm["text"] == [sglang.json()["text"]]
    assert "logprobs" not in vllm


async def test_half_a_character_in_a_prompt_comes_back_as_it_was_sent(client: httpx.AsyncClient):
    headers = {"content-type": "application/json"}
    answer = await client.post("/generate", content=b'{"prompt": "a\\ud800", "max_tokens": 2}', headers=headers)
    assert (answer.status_code, answer.json()["prompt"]) == (200, "a\ud800")


async def test_text_becomes_ids_and_ids_text(client: httpx.AsyncClient, model_dir: Path):
    renderer = Renderer.from_directory(model_dir)
    told = (await client.post("/tokenize", json={"prompt": "You are a careful agent."})).json()
    assert told["tokens"] == renderer.encode("You are a careful agent.")
    assert (told["count"], told["max_model_len"]) == (len(told["tokens"]), 512)
    assert (await client.post("/detokenize", json={"tokens": told["tokens"]})).json()["prompt"] == "You are a careful agent."


async def test_a_conversation_becomes_the_ids_that_a_chat_is_sampled_after(client: httpx.AsyncClient):
    chat = {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": {"name": "look"}}]}
    told = (await client.post("/tokenize", json=chat)).json()["tokens"]
    sampled = (await client.post("/v1/chat/completions", json={**chat, "max_tokens": 1, "return_token_ids": True})).json()
    assert told == sampled["prompt_token_ids"]


async def test_completions_take_text_and_ids_alike(client: httpx.AsyncClient, model_dir: Path):
    text = "You are a careful agent."
    ids = Renderer.from_directory(model_dir).encode(text)
    settings = {"temperature": 0, "max_tokens": 6, "return_token_ids": True, "logprobs": 1}
    by_text = (await client.post("/v1/completions", json={"prompt": text, **settings})).json()
    by_ids = (await client.post("/v1/completions", json={"prompt": ids, **settings})).json()
    assert by_text["choices"] == by_ids["choices"]
    assert by_text["choices"][0]["prompt_token_ids"] == ids


async def test_completions_of_several_prompts_come_in_order(client: httpx.AsyncClient):
    prompts = [PROMPT, PROMPT[:9]]
    asked = {"prompt": prompts, "n": 2, "max_tokens": 2, "return_token_ids": True}
    answer = (await client.post("/v1/completions", json=asked)).json()
    assert [choice["prompt_token_ids"] for choice in answer["choices"]] == [PROMPT, PROMPT, PROMPT[:9], PROMPT[:9]]


async def test_a_streamed_completion_adds_up_to_the_whole(client: httpx.AsyncClient):
    asked = {"prompt": PROMPT, "seed": 3, "max_tokens": 20, "n": 2, "stream_options": {"include_usage": True}}
    whole = (await client.post("/v1/completions", json=asked)).json()
    async with client.stream("POST", "/v1/completions", json={**asked, "stream": True}) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    for index in range(2):
        told = [choice["text"] for event in events for choice in event["choices"] if choice["index"] == index]
        assert "".join(told) == whole["choices"][index]["text"]
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


async def test_models_name_directory_and_version(client: httpx.AsyncClient, model_dir: Path):
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert (model["id"], model["path"], model["policy_version"]) == ("policy", str(model_dir), 0)
    assert (await client.get("/v1/models/policy")).json() == model


async def test_health_answers(client: httpx.AsyncClient):
    assert (await client.get("/health")).json() == {"status": "ok", "policy_version": 0, "running": 0, "waiting": 0}


async def test_ready_until_it_is_closed(client: httpx.AsyncClient, engine: LocalEngine):
    assert (await client.get("/ready")).json() == {"status": "ready"}
    await engine.aclose()
    answer = await client.get("/ready")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_metrics_count_what_was_sampled(client: httpx.AsyncClient):
    await generate(client, sampling_params={"max_new_tokens": 7, "ignore_eos": True})
    lines = (await client.get("/metrics")).text.splitlines()
    assert "natgym_inference_generated_tokens_total 7" in lines
    assert "natgym_inference_prompt_tokens_total 30" in lines


CHAT = {"messages": [{"role": "user", "content": "x"}]}
BAD = {
    "not JSON": ("/generate", b"{", 400, "not JSON"),
    "deep JSON": ("/generate", b"[" * 100_000, 400, "not JSON"),
    "a list": ("/generate", b"[]", 400, "not a JSON object"),
    "nothing to continue": ("/generate", {}, 400, "input_ids or text"),
    "an empty prompt": ("/generate", {"input_ids": []}, 400, "prompt_ids"),
    "a token that does not exist": ("/generate", {"input_ids": [10**9]}, 400, "outside the vocabulary"),
    "a negative token": ("/generate", {"input_ids": [-1]}, 400, "input_ids.0"),
    "no tokens wanted": ("/generate", {"input_ids": [1], "sampling_params": {"max_new_tokens": 0}}, 400, "max_tokens"),
    "a huge top_k": ("/generate", {"input_ids": [1], "sampling_params": {"top_k": 10**30}}, 400, "top_k"),
    "NaN": ("/generate", b'{"input_ids": [1], "sampling_params": {"temperature": NaN}}', 400, "temperature"),
    "too long a prompt": ("/v1/completions", {"prompt": PROMPT * 20}, 400, "600 tokens"),
    "a stream of generate": ("/generate", {"prompt": "x", "stream": True}, 400, "stream"),
    "logprobs of the prompt": ("/generate", {"prompt": "x", "prompt_logprobs": 1}, 400, "prompt_logprobs"),
    "a min_p above 1": ("/generate", {"prompt": "x", "min_p": 2}, 400, "min_p"),
    "nothing to encode": ("/tokenize", {}, 400, "prompt or messages"),
    "ids without a text": ("/detokenize", {"tokens": [10**9]}, 400, "outside"),
    "no prompt": ("/v1/completions", {"prompt": []}, 400, "prompt"),
    "no messages": ("/v1/chat/completions", {"messages": []}, 400, "messages"),
    "an unknown role": ("/v1/chat/completions", {"messages": [{"role": "robot", "content": ""}]}, 400, "messages.0.role"),
    "an image": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages.0.content",
    ),
    "a forced call": ("/v1/chat/completions", {**CHAT, "tool_choice": "required"}, 400, "tool_choice"),
    "a penalty": ("/v1/chat/completions", {**CHAT, "presence_penalty": 1}, 400, "presence_penalty is not supported"),
    "a bad temperature": ("/v1/chat/completions", {**CHAT, "temperature": -1}, 400, "temperature"),
    "a bad stream": ("/v1/chat/completions", {**CHAT, "stream": True, "top_p": 0}, 400, "top_p"),
    "another model": ("/v1/chat/completions", {**CHAT, "model": "gpt-4"}, 404, "no model 'gpt-4'"),
    "another path": ("/v1/embeddings", {}, 404, "Not Found"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_input_gets_openais_error(client: httpx.AsyncClient, case: str):
    path, body, status, message = BAD[case]
    answer = await client.post(path, content=body if isinstance(body, bytes) else json.dumps(body))
    assert answer.status_code == status
    error = answer.json()["error"]
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


async def test_the_wrong_method_is_refused(client: httpx.AsyncClient):
    assert (await client.get("/generate")).status_code == 405


async def test_a_full_queue_asks_to_come_back(model_dir: Path):
    engine = LocalEngine.load(model_dir, LocalEngineConfig(max_batch=1, max_waiting=1))
    body = {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
    async with served(engine, model_dir) as client:
        answers = await asyncio.gather(*(client.post("/generate", json=body) for _ in range(8)))
    await engine.aclose()
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
