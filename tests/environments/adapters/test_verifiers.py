"""Environments of ours, played by verifiers' own evaluation: the rewards are those of our own."""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.types import JsonObject, Task
from environments.base import ENVIRONMENTS, Environment, Split
from environments.episode import Arena
from environments.evaluation import EvaluationConfig, evaluate
from environments.policy import PolicyConfig, PolicyKind, open_policy
from tests.environments.inference_server import chatted, inference_server
from tests.environments.sandboxes import any_backend
from tool_call_parsers.hermes import HermesParser

ROOT = Path(__file__).parents[3]
EVALUATE = ROOT / ".venv-verifiers/bin/vf-eval"
TASKS = 4
MODULE = """
from environments.adapters.verifiers import export

Tasks, Loop, Served = export({name!r}, backend={backend!r})
__all__ = ["Tasks", "Loop", "Served"]
"""

pytestmark = [
    pytest.mark.skipif(not (ROOT / ".venv-verifiers/.ready").exists(), reason="verifiers is not installed: make verifiers"),
    pytest.mark.slow,
]


class Answers:
    """A server's replies: gold answers to every other task, and to the others that it does not know."""

    def __init__(self, environment: Environment) -> None:
        tasks = environment.tasks(Split.HELD_OUT)[:TASKS]
        self._scripts = {
            self._asked(task): environment.gold(task) if place % 2 else ("No.",) for place, task in enumerate(tasks)
        }

    def __call__(self, body: JsonObject) -> JsonObject:
        messages: list[JsonObject] = body["messages"]  # type: ignore[assignment]
        asked = next(one["content"] for one in messages if one["role"] == "user")
        turn = sum(one["role"] == "assistant" for one in messages)
        message = HermesParser().parse(self._scripts[str(asked)][turn]).message().to_openai()
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        finish = "tool_calls" if "tool_calls" in message else "stop"
        return chatted(message, finish, id="c", object="chat.completion", created=1, model="m", usage=usage)

    @staticmethod
    def _asked(task: Task) -> str:
        return next(message.content for message in task.messages if message.role == "user")


async def by_verifiers(folder: Path, module: str, url: str) -> list[JsonObject]:
    """The traces of `vf-eval`, in a folder that holds the module."""
    told = ["--no-push", "--no-rich", "-n", str(TASKS), "-m", "m", "-o", "out"]
    server = ["--client.base-url", f"{url}/v1", "--client.api-key-var", "NATGYM_NO_KEY"]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            EVALUATE, module, *told, *server, cwd=folder, env=environ, stdout=log, stderr=log
        )
        try:
            async with asyncio.timeout(180):
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert code == 0, (folder / "log").read_text()[-3000:]
    (traces,) = folder.glob("out/*/traces.jsonl")
    return [trace for line in traces.read_text().splitlines() for trace in json.loads(line)["traces"]]


def rewards_of(trace: JsonObject) -> Mapping[str, float]:
    rewards: Mapping[str, Mapping[str, float]] = trace["rewards"]  # type: ignore[assignment]
    return {name: one["score"] * one["weight"] for name, one in rewards.items()}


@pytest.mark.parametrize("name", ["reverse_text", "gsm8k"])
async def test_verifiers_gives_the_rewards_that_our_own_evaluation_gives(name: str, tmp_path: Path):
    async with ENVIRONMENTS.load(name)() as environment, any_backend() as backend:
        answers = Answers(environment)
        async with inference_server(*[answers] * 100) as server:
            policy = open_policy(PolicyConfig(kind=PolicyKind.SERVER, base_url=server.url))
            try:
                arena = Arena(environment, policy, backend)
                _, ours = await evaluate(arena, EvaluationConfig(tasks=TASKS))
            finally:
                await policy.aclose()
            (tmp_path / "exported.py").write_text(MODULE.format(name=name, backend=backend.name))
            traces = await by_verifiers(tmp_path, "exported", server.url)
    theirs = {trace["task"]["data"]["id"]: trace for trace in traces}
    assert {one.reward.total for one in ours if one.reward} == {0.0, 1.0}
    assert {one.task_id: one.reward.parts for one in ours if one.reward} == {
        task: rewards_of(trace) for task, trace in theirs.items()
    }
    assert {one.task_id: one.reward.metrics for one in ours if one.reward} == {
        task: trace["metrics"] for task, trace in theirs.items()
    }
    spoken = {task: sum(node["message"]["role"] == "assistant" for node in trace["nodes"]) for task, trace in theirs.items()}
    assert spoken == {one.task_id: len(one.turns) for one in ours}


async def test_a_server_that_breaks_is_an_error_of_the_rollout_and_no_score(tmp_path: Path):
    broken = (500, {}, b"no")
    async with any_backend() as backend, inference_server(*[broken] * 200) as server:
        (tmp_path / "exported.py").write_text(MODULE.format(name="reverse_text", backend=backend.name))
        traces = await by_verifiers(tmp_path, "exported", server.url)
    assert len(traces) == 3
    assert all(
        trace["errors"] and not trace["ok"] and not rewards_of({"rewards": trace.get("rewards") or {}}) for trace in traces
    )
