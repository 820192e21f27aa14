"""Tokens in, tokens out: what a server sampled is what stands in the turn, and the next prompt grows from it."""

import json
from pathlib import Path

import pytest

from core.config import load_config
from core.errors import ConfigError, PolicyError
from core.types import FinishReason, Message, Role, StopReason, ToolCall, Turn
from environments.completion_client import CompletionClient
from environments.episode import Arena, run_episode
from environments.gold_policy import GoldPolicy
from environments.policy import CompletionRequest, OutOfTokens, PolicyConfig, open_policy
from environments.token_policy import Reader, TokenPolicy
from tests.environments.inference_server import InferenceServer, generated, inference_server
from tests.fakes import FakeBackend, Sums, call
from tests.tool_call_parsers.tiny_model import KEEPS_THINKING, write_model
from tool_call_parsers.base import PARSERS
from tool_call_parsers.hermes import HermesParser
from tool_call_parsers.rendering import Renderer, count_forks

SUMS = Sums()
TASK = SUMS.task(2)
REQUEST = CompletionRequest("episode-1", TASK)


class QuickClock:
    """Waits are remembered and not waited for."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), KEEPS_THINKING)


@pytest.fixture(scope="module")
def renderer(model: Path) -> Renderer:
    return Renderer.from_directory(model)


@pytest.fixture
def clock() -> QuickClock:
    return QuickClock()


def policy_of(server: InferenceServer, renderer: Renderer, clock: QuickClock | None = None, **options: object) -> TokenPolicy:
    config = PolicyConfig.model_validate({"base_url": server.url, "tokenizer": ".", "attempts": 3, **options})
    return TokenPolicy(config, CompletionClient(config, clock=clock), Reader(renderer, HermesParser()))


async def test_the_turn_holds_what_was_sampled(renderer: Renderer):
    ids = renderer.encode(call("finish") + "<|im_end|>")
    async with inference_server(generated(ids)) as server:
        policy = policy_of(server, renderer)
        completion = await policy.complete(REQUEST)
        await policy.aclose()
    assert completion.completion_ids == tuple(ids)
    assert completion.logprobs == tuple(-place / 8 for place in range(len(ids)))
    assert completion.prompt_ids == tuple(renderer.render(TASK.messages, TASK.tools))
    assert (completion.policy_version, completion.finish_reason) == (3, FinishReason.TOOL_CALLS)
    assert [one.name for one in completion.message.tool_calls] == ["finish"]


async def test_the_server_is_asked_in_sglangs_shape(renderer: Renderer):
    async with inference_server(generated([5])) as server:
        policy = policy_of(server, renderer, temperature=0.7, top_p=0.9, max_tokens_per_turn=50)
        await policy.complete(REQUEST)
        await policy.aclose()
    assert server.paths == ["/generate"]
    assert server.bodies == [
        {
            "input_ids": renderer.render(TASK.messages, TASK.tools),
            "sampling_params": {
                "max_new_tokens": 50,
                "temperature": 0.7,
                "top_p": 0.9,
                "stop_token_ids": list(renderer.eos_ids),
            },
            "return_logprob": True,
            "session_id": "episode-1",
        }
    ]


async def test_every_prompt_of_an_episode_begins_with_the_turn_before_it(renderer: Renderer):
    inside = call("write", text="4").removeprefix("<tool_call>").removesuffix("</tool_call>")
    spelled = [index for letter in inside for index in renderer.encode_plain(letter)]  # no tokenizer writes it so
    letters = [*renderer.encode("<tool_call>"), *spelled, *renderer.encode("</tool_call>")]
    replies = [
        generated(letters),
        generated(renderer.encode(call("look", path="answer")), "length"),
        generated([renderer.eos_ids[0]]),
    ]
    async with inference_server(*replies) as server:
        policy = policy_of(server, renderer)
        trajectory = await run_episode(Arena(SUMS, policy, FakeBackend()), TASK, "e")
        await policy.aclose()
    assert (trajectory.stop, len(trajectory.turns)) == (StopReason.FINISHED, 3)
    assert [list(turn.prompt_ids) for turn in trajectory.turns] == [body["input_ids"] for body in server.bodies]
    assert count_forks(trajectory.turns) == 0
    assert trajectory.turns[2].prompt_ids[-len(renderer.encode("<|im_start|>assistant\n")) :] == tuple(
        renderer.encode("<|im_start|>assistant\n")
    )


async def test_a_marker_that_was_not_sampled_as_one_is_text(renderer: Renderer):
    ids = renderer.encode_plain(call("finish"))
    async with inference_server(generated(ids)) as server:
        policy = policy_of(server, renderer)
        completion = await policy.complete(REQUEST)
        await policy.aclose()
    assert (completion.message.tool_calls, completion.message.content) == ((), call("finish"))


async def test_a_call_has_an_id_of_its_own_in_the_conversation(renderer: Renderer):
    kimi = "<|tool_calls_section_begin|><|tool_call_begin|>functions.finish:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    before = Turn(
        message=Message(role=Role.ASSISTANT, tool_calls=(ToolCall(id="functions.finish:0", name="f", arguments="{}"),))
    )
    reader = Reader(renderer, PARSERS.load("kimi_k2")())
    parsed = reader.read((), renderer.encode(kimi), CompletionRequest("e", TASK, (before,)))
    assert [one.id for one in parsed.message().tool_calls] == ["functions.finish:1"]


async def test_a_prompt_that_opened_the_reasoning_is_noticed(renderer: Renderer):
    prompt = renderer.encode("<|im_start|>assistant\n<think>\n")
    parsed = Reader(renderer, HermesParser()).read(prompt, renderer.encode("hm</think>Yes."), REQUEST)
    assert (parsed.reasoning, parsed.content) == ("hm", "Yes.")


async def test_a_cut_completion_says_so(renderer: Renderer):
    async with inference_server(generated(renderer.encode(call("finish")), "length")) as server:
        policy = policy_of(server, renderer)
        completion = await policy.complete(REQUEST)
        await policy.aclose()
    assert completion.finish_reason is FinishReason.LENGTH


async def test_a_conversation_that_is_full_asks_nobody(renderer: Renderer):
    turn = Turn(prompt_ids=(5,) * 600, message=Message(role=Role.ASSISTANT))
    async with inference_server() as server:
        policy = policy_of(server, renderer, max_tokens=600)
        with pytest.raises(OutOfTokens):
            await policy.complete(CompletionRequest("e", TASK, (turn,)))
        await policy.aclose()


async def test_the_last_tokens_of_a_conversation_are_all_that_is_asked_for(renderer: Renderer):
    length = len(renderer.render(TASK.messages, TASK.tools))
    async with inference_server(generated([5])) as server:
        policy = policy_of(server, renderer, max_tokens=length + 7)
        await policy.complete(REQUEST)
        await policy.aclose()
    sampling = server.bodies[0]["sampling_params"]
    assert isinstance(sampling, dict)
    assert sampling["max_new_tokens"] == 7


async def test_a_busy_server_is_asked_again_after_the_time_that_it_names(renderer: Renderer, clock: QuickClock):
    busy = (503, {"retry-after": "7"}, b"busy")
    async with inference_server(busy, (429, {}, b""), generated([5])) as server:
        policy = policy_of(server, renderer, clock)
        completion = await policy.complete(REQUEST)
        await policy.aclose()
    assert (completion.completion_ids, clock.slept) == ((5,), [7.0, 0.5])


async def test_a_server_that_stays_busy_is_a_policy_error(renderer: Renderer, clock: QuickClock):
    async with inference_server(*[(503, {"retry-after": "1e9"}, b"busy")] * 3) as server:
        policy = policy_of(server, renderer, clock)
        with pytest.raises(PolicyError, match="no answer after 3 attempts: status 503: busy"):
            await policy.complete(REQUEST)
        await policy.aclose()
    assert clock.slept == [60.0, 60.0]


async def test_a_server_that_is_not_there_is_a_policy_error(renderer: Renderer, clock: QuickClock):
    async with inference_server() as server:
        gone = server
    policy = policy_of(gone, renderer, clock)
    with pytest.raises(PolicyError, match="no answer after 3 attempts"):
        await policy.complete(REQUEST)
    await policy.aclose()


@pytest.mark.parametrize(
    "reply",
    [
        b"half a str",
        b"[1]",
        {"text": "hello"},
        {"meta_info": {"output_token_logprobs": [[None, 1]], "finish_reason": {"type": "stop"}}},
        {"meta_info": {"output_token_logprobs": [[float("nan"), 1]], "finish_reason": {"type": "stop"}}},
        {"meta_info": {"output_token_logprobs": [[-1.0, 10**9]], "finish_reason": {"type": "stop"}}},
        {"meta_info": {"output_token_logprobs": [[-1.0, 1]], "finish_reason": {"type": "abort"}}},
        {"output_ids": [2], "meta_info": {"output_token_logprobs": [[-1.0, 1]], "finish_reason": {"type": "stop"}}},
        (400, {}, b"too long"),
    ],
    ids=["not JSON", "a list", "no logprobs", "no number", "NaN", "unknown id", "aborted", "other ids", "refused"],
)
async def test_an_answer_that_is_no_completion_is_a_policy_error(renderer: Renderer, clock: QuickClock, reply: object):
    async with inference_server(reply) as server:  # type: ignore[arg-type]
        policy = policy_of(server, renderer, clock)
        with pytest.raises(PolicyError):
            await policy.complete(REQUEST)
        await policy.aclose()


async def test_weights_that_do_not_count_are_version_0(renderer: Renderer):
    async with inference_server(generated([5], version="default")) as server:
        policy = policy_of(server, renderer)
        completion = await policy.complete(REQUEST)
        await policy.aclose()
    assert completion.policy_version == 0


async def test_a_policy_is_opened_from_its_configuration(model: Path):
    async with inference_server(generated([5])) as server:
        policy = open_policy(PolicyConfig(base_url=f"{server.url}/v1", tokenizer=model))
        assert (await policy.complete(REQUEST)).completion_ids == (5,)
        await policy.aclose()


def test_tokens_without_a_tokenizer_are_refused(tmp_path: Path):
    (tmp_path / "policy.json").write_text(json.dumps({"kind": "tokens"}))
    with pytest.raises(ConfigError, match="needs `tokenizer`"):
        load_config(PolicyConfig, tmp_path / "policy.json")


async def test_gold_has_the_ids_that_a_model_would_have_sampled(renderer: Renderer):
    trajectory = await run_episode(Arena(SUMS, GoldPolicy(SUMS.gold, renderer), FakeBackend()), TASK, "e")
    first, second = trajectory.turns
    assert renderer.decode(first.completion_ids) == call("write", text="4") + "<|im_end|>"
    assert second.prompt_ids[: len(first.prompt_ids) + len(first.completion_ids)] == (*first.prompt_ids, *first.completion_ids)
    assert set(first.logprobs) == {0.0}
