"""An environment as Atropos's users write them, played by natgym's environment server."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from core.types import ScoredGroup
from services.sdk.rollout_client import RolloutClient
from tests.services.rollout_api.harness import ApiProcess, run_spec, update
from tests.services.rollout_api.stock_atropos import PYTHON, ROOT, environ, needs_atropos, running
from tests.tool_call_parsers.tiny_model import write_model

STOCK = ROOT / "tests/services/rollout_api/stock_environment.py"
SIZE = 4
pytestmark = needs_atropos


def command(name: str, *more: str) -> list[str]:
    return [str(PYTHON), "-m", "services.cli", "serve", "env", f"{STOCK}:{name}", "--atropos", *more]


async def played(tmp_path: Path, name: str, groups: int) -> list[ScoredGroup]:
    """The first groups of an environment, as a trainer gets them."""
    tokenizer = write_model(tmp_path, "{{ messages }}")
    found: list[ScoredGroup] = []
    with ApiProcess(tmp_path / "q") as api:
        more = ["--api-url", api.url, "--policy-url", api.url, "--set", f"env.options.tokenizer_name={tokenizer}"]
        log = tmp_path / "env.log"
        with running(command(name, *more), log, environ(PYTHONPATH=str(ROOT))) as process:
            async with RolloutClient(api.url) as client, asyncio.timeout(180):
                run = await client.open_run(run_spec(batch=1, total_steps=groups).model_copy(update={"group_size": SIZE}))
                while len(found) < groups:
                    taken = await client.take_batch(1, run.policy_version, wait_seconds=0.5)
                    assert process.poll() is None, log.read_text()[-3000:]
                    if taken is not None:
                        found += taken.groups
                        run = await client.acknowledge(taken.batch_id, update(run.step + 1))
                assert await asyncio.to_thread(process.wait, 60) == 0, log.read_text()[-3000:]
    return found


@pytest.mark.slow
async def test_an_environment_that_makes_groups_is_played(tmp_path: Path):
    groups = await played(tmp_path, "Numbers", 3)
    assert [group.environment for group in groups] == ["numbers"] * 3
    assert [group.rewards for group in groups] == [(0.0, 0.25, 0.5, 1.0)] * 3
    assert [group.trajectories[0].turns[0].prompt_ids[0] for group in groups] == [1000, 1001, 1002]
    assert [group.policy_version for group in groups] == [0, 1, 2]


@pytest.mark.slow
async def test_an_environment_that_makes_trajectories_keeps_its_logprobs_and_may_break(tmp_path: Path):
    groups = await played(tmp_path, "Items", 4)
    numbers = [group.trajectories[0].turns[0].prompt_ids[0] - 1000 for group in groups]
    assert numbers == [0, 1, 2, 4]  # the third item broke: that was no score
    assert [group.rewards for group in groups] == [(number / 10,) * SIZE for number in numbers]
    turns = groups[0].trajectories[0].turns
    assert [(turn.completion_ids, turn.logprobs) for turn in turns] == [((5, 6), (-0.5, -0.25)), ((8,), (-1.5,))]


@pytest.mark.parametrize(
    ("name", "more", "problem"),
    [
        ("Nobody", [], "no subclass of atroposlib's BaseEnv"),
        ("Numbers", ["--set", "env.options.group_sise=4"], "Numbers has no such setting"),
        ("Numbers", ["--ray", "auto"], "cannot be used with --atropos"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, name: str, more: list[str], problem: str):
    env = environ(PYTHONPATH=str(ROOT))
    done = subprocess.run(command(name, *more), capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert problem in done.stderr.splitlines()[-1]
