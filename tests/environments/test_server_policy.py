"""A policy behind an OpenAI-compatible server, which finds the tool calls itself."""

import pytest
from pydantic import SecretStr

from core.errors import PolicyError
from core.types import FinishReason, JsonObject, Role
from environments.completion_client import CompletionClient
from environments.episode import Arena, run_episode
from environments.policy import Completion, CompletionRequest, PolicyConfig, PolicyKind, open_policy
from environments.server_policy import ServerPolicy
from tests.environments.inference_server import chatted, inference_server
from tests.fakes import FakeBackend, Sums

SUMS = Sums()
TASK = SUMS.task(2)


def calling(name: str, arguments: object, given: str | None = "c1") -> JsonObject:
    return {
        "content": None,
        "tool_calls": [{"id": given, "type": "function", "function": {"name": name, "arguments": arguments}}],
    }


async def complete(reply: object, **options: object) -> Completion:
    async with inference_server(reply) as server:  # type: ignore[arg-type]
        config = PolicyConfig.model_validate({"kind": "server", "base_url": server.url, "attempts": 1, **options})
        policy = ServerPolicy(config, CompletionClient(config))
        try:
            return await policy.complete(CompletionRequest("e", TASK))
        finally:
            await policy.aclose()


async def test_an_episode_is_played_in_the_chat_protocol():
    replies = [chatted(calling("write", '{"text": "4"}'), "tool_calls"), chatted({"content": "Done."})]
    async with inference_server(*replies) as server:
        policy = open_policy(PolicyConfig(kind=PolicyKind.SERVER, base_url=server.url, model="m"), SecretStr("secret"))
        trajectory = await run_episode(Arena(SUMS, policy, FakeBackend()), TASK, "e")
        await policy.aclose()
    assert trajectory.reward is not None
    assert trajectory.reward.total == 1.0
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.bodies[0]["tools"] == [tool.to_openai() for tool in TASK.tools]
    assert server.bodies[1]["messages"] == [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": calling("write", '{"text": "4"}')["tool_calls"]},
        {"role": "tool", "content": "written", "tool_call_id": "c1"},
    ]


async def test_a_question_for_token_ids_is_asked_by_choice_only():
    async with inference_server(chatted({"content": "x"}), chatted({"content": "x"})) as server:
        for wanted in (False, True):
            policy = open_policy(PolicyConfig(kind=PolicyKind.SERVER, base_url=server.url, return_token_ids=wanted))
            await policy.complete(CompletionRequest("e", TASK))
            await policy.aclose()
    assert ["return_token_ids" in body for body in server.bodies] == [False, True]


async def test_token_ids_are_kept_where_the_server_returns_them():
    reply = chatted({"content": "x"}, prompt_token_ids=[1, 2], policy_version=4)
    choices = reply["choices"]
    assert isinstance(choices, list)
    choices[0] = {**dict(choices[0]), "token_ids": [3], "logprobs": {"content": [{"token": "x", "logprob": -0.5}]}}  # type: ignore[arg-type]
    completion = await complete(reply)
    assert (completion.prompt_ids, completion.completion_ids, completion.logprobs) == ((1, 2), (3,), (-0.5,))
    assert completion.policy_version == 4


async def test_token_ids_without_logprobs_are_left_out():
    assert (await complete(chatted({"content": "x"}, prompt_token_ids=[1]))).prompt_ids == ()


async def test_a_call_of_an_unknown_tool_keeps_its_id():
    completion = await complete(chatted(calling("wrte", "{}")))
    assert [bad.call and bad.call.id for bad in completion.malformed] == ["c1"]
    assert [one.id for one in completion.message.tool_calls] == ["c1"]


async def test_arguments_that_are_not_json_become_text_that_servers_take_back():
    completion = await complete(chatted(calling("write", '{"text": ')))
    assert completion.message.tool_calls == ()
    assert completion.message.content == 'write({"text": )'
    assert len(completion.malformed) == 1


async def test_arguments_as_an_object_are_accepted():
    (call,) = (await complete(chatted(calling("write", {"text": "4"})))).message.tool_calls
    assert call.arguments == '{"text": "4"}'


async def test_a_call_without_an_id_gets_one():
    (call,) = (await complete(chatted(calling("finish", "{}", None)))).message.tool_calls
    assert call.id.startswith("call_")


async def test_a_repeated_id_is_replaced():
    twice = calling("finish", "{}")
    twice["tool_calls"] = [*twice["tool_calls"]] * 2  # type: ignore[misc]
    assert len({call.id for call in (await complete(chatted(twice))).message.tool_calls}) == 2


async def test_reasoning_is_kept():
    message = (await complete(chatted({"content": "x", "reasoning_content": "hm"}))).message
    assert (message.role, message.reasoning) == (Role.ASSISTANT, "hm")


async def test_a_cut_answer_says_so():
    assert (await complete(chatted({"content": "x"}, "length"))).finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"choices": []},
        {"choices": [{"message": None}]},
        chatted({"tool_calls": ["x"]}),
        (500, {}, b"oops"),
        (401, {}, b"who?"),
    ],
    ids=["nothing", "no choice", "no message", "no call", "broken", "unauthorised"],
)
async def test_an_answer_that_is_no_completion_is_a_policy_error(reply: object):
    with pytest.raises(PolicyError):
        await complete(reply)


async def test_a_turn_notes_that_its_sampling_was_constrained():
    reply = chatted({"content": "x"})
    reply["choices"][0]["constrained"] = True  # type: ignore[index,call-overload]
    async with inference_server(reply) as server:
        policy = open_policy(PolicyConfig(kind=PolicyKind.SERVER, base_url=server.url))
        trajectory = await run_episode(Arena(SUMS, policy, FakeBackend()), TASK, "e")
        await policy.aclose()
    assert [turn.constrained for turn in trajectory.turns] == [True]
