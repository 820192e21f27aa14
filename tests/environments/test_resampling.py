"""A turn that cannot be read is rolled back: it is nowhere in the episode, and nothing that comes after it knows of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.types import StopReason, Trajectory
from environments.episode import Arena, run_episode
from environments.policy import CompletionRequest, PolicyConfig, Usage, open_policy
from environments.process import ProcessConfig, generate
from environments.resampling import ResamplingPolicy, resampled
from tests.environments.inference_server import generated, inference_server
from tests.fakes import FakeBackend, FakePolicy, Sums, call
from tests.tool_call_parsers.tiny_model import KEEPS_THINKING, write_model
from tool_call_parsers.rendering import Renderer, count_forks

SUMS = Sums()
TASK = SUMS.task(2)
BROKEN = "<tool_call>{]</tool_call>"
CUT = '<tool_call>{"name": "write"'


class Says:
    """Says these texts one after another, whatever is asked; remembers what it was asked."""

    def __init__(self, *texts: str) -> None:
        self._texts = list(texts)
        self.asked: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> object:
        self.asked.append(request)
        return await FakePolicy([self._texts.pop(0)]).complete(CompletionRequest(request.episode_id, request.task))

    async def aclose(self) -> None:
        """Nothing is open."""


async def play(policy: object, resamples: int) -> Trajectory:
    return await run_episode(Arena(SUMS, ResamplingPolicy(policy, resamples), FakeBackend()), TASK, "e")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [BROKEN, CUT, "", "  \n"], ids=["no call", "half a call", "nothing", "blanks"])
async def test_a_turn_that_cannot_be_read_is_sampled_again_from_what_was_before_it(bad: str):
    policy = Says(call("look", path="answer"), bad, call("write", text="4"), call("finish"))
    trajectory = await play(policy, 2)
    assert trajectory.reward is not None
    assert trajectory.reward.total == 1.0
    assert [turn.rolled_back for turn in trajectory.turns] == [0, 1, 0]
    assert [turn.malformed for turn in trajectory.turns] == [0, 0, 0]
    assert policy.asked[1] == policy.asked[2]


async def test_after_so_many_times_the_policy_is_told_what_is_wrong():
    trajectory = await play(Says(BROKEN, BROKEN, BROKEN, call("finish")), 2)
    assert [(turn.rolled_back, turn.malformed) for turn in trajectory.turns] == [(2, 1), (0, 0)]
    assert "not JSON" in trajectory.turns[0].observations[0].content


@pytest.mark.parametrize("line", [call("wrte", text="4"), call("write", txt="4")], ids=["unknown tool", "wrong arguments"])
async def test_a_call_that_can_be_read_is_answered_and_stays(line: str):
    trajectory = await play(Says(line, "done"), 2)
    assert [turn.rolled_back for turn in trajectory.turns] == [0, 0]
    assert trajectory.turns[0].malformed == 1


async def test_unless_asked_for_the_policy_is_itself_and_its_mistakes_are_kept():
    policy = Says(BROKEN, "done")
    assert resampled(policy, PolicyConfig(kind="server").resamples) is policy  # type: ignore[arg-type]


async def test_tokens_that_were_rolled_back_are_in_no_prompt_and_no_completion(tmp_path: Path):
    model = write_model(tmp_path, KEEPS_THINKING)
    renderer = Renderer.from_directory(model)
    said = [call("look", path="answer"), BROKEN, CUT, call("write", text="4"), call("finish")]
    async with inference_server(*[generated(renderer.encode(f"{text}<|im_end|>")) for text in said]) as server:
        policy = resampled(open_policy(PolicyConfig(base_url=server.url, tokenizer=model)), 2)
        trajectory = await run_episode(Arena(SUMS, policy, FakeBackend()), TASK, "e")
        await policy.aclose()
    assert (trajectory.stop, [turn.rolled_back for turn in trajectory.turns]) == (StopReason.FINISHED, [0, 2, 0])
    assert [body["input_ids"] for body in server.bodies[1:4]] == [server.bodies[1]["input_ids"]] * 3
    assert count_forks(trajectory.turns) == 0
    spelled = "".join(renderer.decode((*turn.prompt_ids, *turn.completion_ids)) for turn in trajectory.turns)
    assert BROKEN not in spelled


async def test_what_was_rolled_back_was_paid_for():
    policy = Says("", call("finish"))

    class Priced(Says):
        async def complete(self, request: CompletionRequest) -> object:
            return replace(await policy.complete(request), usage=Usage(100, 20))  # type: ignore[type-var]

    completion = await ResamplingPolicy(Priced(), 1).complete(CompletionRequest("e", TASK))  # type: ignore[arg-type]
    assert completion.usage == Usage(200, 40)


async def test_rows_count_what_was_rolled_back_and_hold_none_of_it(tmp_path: Path):
    policy = ResamplingPolicy(Says("", BROKEN, call("write", text="0"), call("finish")), 2)  # type: ignore[arg-type]
    report = await generate(Arena(SUMS, policy, FakeBackend()), ProcessConfig(groups=1, group_size=1), tmp_path / "f.jsonl")
    assert (report.rows, report.rolled_back) == (1, 2)
    assert "{]" not in (tmp_path / "f.jsonl").read_text("utf-8")
    again = await generate(Arena(SUMS, policy, FakeBackend()), ProcessConfig(groups=1, group_size=1), tmp_path / "f.jsonl")
    assert again.rolled_back == 2
