"""A server that breaks: asked again with a limit, then a Failure of the policy's boundary, in both phases."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from core.types import JsonObject, StopReason, Trajectory
from environments.agent_loop import EpisodeLimits
from environments.completion_client import CompletionClient
from environments.episode import Arena, run_episode
from environments.group import run_group
from environments.policy import Policy, PolicyConfig, PolicyKind
from environments.server_policy import ServerPolicy
from environments.token_policy import Reader, TokenPolicy
from tests.environments.broken_server import HANGS, HANGS_UP, BrokenServer, answered, broken_server
from tests.environments.inference_server import chatted, generated
from tests.environments.test_token_policy import QuickClock
from tests.fakes import FakeBackend, Sums, call
from tests.tool_call_parsers.tiny_model import KEEPS_THINKING, write_model
from tool_call_parsers.hermes import HermesParser
from tool_call_parsers.rendering import Renderer

SUMS = Sums()
PHASES = list(PolicyKind)
HALF = json.dumps(chatted({"content": "Done."})).encode()[:40]
BAD = {
    "429": answered(b"slow down", "429 Too Many Requests", "retry-after: 7\r\n"),
    "500": answered(b"oops", "500 Internal Server Error"),
    "503": answered(b"busy", "503 Service Unavailable"),
    "hangs": HANGS,
    "hangs up": HANGS_UP,
    "nothing": answered(b""),
    "half a body": answered(HALF, length=4000),
    "half an object": answered(HALF),
    "a page": answered(b"<html>not found</html>"),
    "another protocol": answered(b'{"object": "list", "data": []}'),
    "no object": answered(b"[1, 2]"),
}


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    folder: Path = tmp_path_factory.mktemp("model")
    return Renderer.from_directory(write_model(folder, KEEPS_THINKING))


def said(kind: PolicyKind, renderer: Renderer, text: str) -> JsonObject:
    """What a server of that kind answers to say a text, in which a call of `write` is a call."""
    if kind is PolicyKind.TOKENS:
        return generated(renderer.encode(f"{text}<|im_end|>"))
    if not text.startswith("<tool_call>"):
        return chatted({"content": text})
    function = {"name": "write", "arguments": json.dumps({"text": "4"})}
    return chatted({"content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]}, "tool_calls")


def policy_of(kind: PolicyKind, server: BrokenServer, renderer: Renderer, clock: QuickClock, **options: object) -> Policy:
    told = {"kind": kind.value, "base_url": server.url, "tokenizer": ".", "timeout_seconds": 60, **options}
    config = PolicyConfig.model_validate(told)
    client = CompletionClient(config, clock=clock)
    return (
        ServerPolicy(config, client)
        if kind is PolicyKind.SERVER
        else TokenPolicy(config, client, Reader(renderer, HermesParser()))
    )


async def play(policy: Policy) -> tuple[Trajectory, FakeBackend]:
    backend = FakeBackend()
    try:
        limits = EpisodeLimits(generation_seconds=120)
        return await run_episode(Arena(SUMS, policy, backend, limits), SUMS.task(2), "e"), backend
    finally:
        await policy.aclose()


@pytest.mark.parametrize("kind", PHASES)
@pytest.mark.parametrize("bad", BAD)
async def test_a_server_that_recovers_costs_the_episode_nothing(kind: PolicyKind, bad: str, renderer: Renderer):
    good = [said(kind, renderer, call("write", text="4")), said(kind, renderer, "Done.")]
    options, times = ({"timeout_seconds": 5}, 1) if bad == "hangs" else ({}, 2)
    async with broken_server([BAD[bad]] * times, good) as server:
        trajectory, _ = await play(policy_of(kind, server, renderer, clock := QuickClock(), **options))
    assert (trajectory.stop, trajectory.reward and trajectory.reward.total) == (StopReason.FINISHED, 1.0), trajectory.failure
    assert clock.slept == ([7.0, 7.0] if bad == "429" else [0.25, 0.5])[:times]


@pytest.mark.parametrize("kind", PHASES)
@pytest.mark.parametrize("bad", BAD)
async def test_a_server_that_stays_broken_is_a_failure_of_the_policy_after_a_limit(
    kind: PolicyKind, bad: str, renderer: Renderer
):
    options = {"timeout_seconds": 0.2} if bad == "hangs" else {}
    async with broken_server([], [BAD[bad]]) as server:
        trajectory, backend = await play(policy_of(kind, server, renderer, QuickClock(), attempts=3, **options))
    assert trajectory.failure is not None
    assert trajectory.failure.boundary == "policy"
    assert "after 3 attempts" in trajectory.failure.message
    assert (trajectory.reward, trajectory.stop) == (None, StopReason.FAILED)
    assert bad == "hangs" or server.asked == 3
    assert [sandbox.destroyed for sandbox in backend.made] == [True]


@pytest.mark.parametrize("kind", PHASES)
async def test_a_refusal_that_asking_again_would_not_change_is_told_at_once(kind: PolicyKind, renderer: Renderer):
    async with broken_server([], [answered(b"who are you?", "401 Unauthorized")]) as server:
        trajectory, _ = await play(policy_of(kind, server, renderer, QuickClock()))
    assert trajectory.failure is not None
    assert (trajectory.failure.boundary, server.asked) == ("policy", 1)
    assert "status 401" in trajectory.failure.message


@pytest.mark.parametrize("kind", PHASES)
async def test_text_that_is_no_tool_call_ends_the_episode_and_is_scored(kind: PolicyKind, renderer: Renderer):
    async with broken_server([], [said(kind, renderer, "I would write down 4 now.")]) as server:
        trajectory, _ = await play(policy_of(kind, server, renderer, QuickClock()))
    assert (trajectory.stop, trajectory.reward and trajectory.reward.total) == (StopReason.FINISHED, 0.0)
    assert server.asked == 1


@pytest.mark.parametrize("kind", PHASES)
async def test_a_call_that_cannot_be_read_is_answered_and_counted(kind: PolicyKind, renderer: Renderer):
    broken: Sequence[JsonObject] = [said(kind, renderer, "<tool_call>{]</tool_call>")]
    if kind is PolicyKind.SERVER:
        function = {"name": "write", "arguments": "{]"}
        broken = [
            chatted({"content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]}, "tool_calls")
        ]
    async with broken_server([], [*broken, said(kind, renderer, "Done.")]) as server:
        trajectory, _ = await play(policy_of(kind, server, renderer, QuickClock()))
    assert [turn.malformed for turn in trajectory.turns] == [1, 0]
    assert trajectory.turns[0].observations[0].content


@pytest.mark.parametrize("kind", PHASES)
async def test_waiting_in_the_line_for_a_server_is_not_counted_as_its_slowness(kind: PolicyKind, renderer: Renderer):
    async with broken_server([HANGS], [said(kind, renderer, "Done.")]) as server:
        policy = policy_of(kind, server, renderer, QuickClock(), max_concurrency=1)
        arena = Arena(SUMS, policy, FakeBackend(), EpisodeLimits(generation_seconds=3))
        group = await run_group(arena, SUMS.task(2), 2)
        await policy.aclose()
    assert [one.failure and one.failure.message for one in group.trajectories] == ["no completion within 3 s", None]


async def test_a_wait_that_is_named_by_a_date_is_kept(renderer: Renderer):
    busy = answered(b"", "503 Service Unavailable", "retry-after: Thu, 01 Jan 1970 00:00:09 GMT\r\n")
    async with broken_server([busy], [chatted({"content": "Done."})]) as server:
        await play(policy_of(PolicyKind.SERVER, server, renderer, clock := QuickClock()))
    assert clock.slept == [9.0]
