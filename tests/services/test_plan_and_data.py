"""`natgym plan` and `natgym dataset` as a user meets them."""

import asyncio
import json
from pathlib import Path

from environments.base import Split
from environments.nat_agent.dataset import read_dataset, row_of
from environments.nat_agent.planner import plan_request
from tests.environments.inference_server import chatted, inference_server
from tests.services.small_policy import natgym

SPEC = plan_request("An agent: convert miles to feet.")


async def test_a_model_plans_with_the_key_of_the_environment(tmp_path: Path):
    async with inference_server(chatted({"content": SPEC.plan.model_dump_json()})) as server:
        line = ("plan", SPEC.plan.user_request, "--server", server.url, "--model", "thinker", "--json", "--out", "plan.json")
        done = await asyncio.to_thread(natgym, *line, cwd=tmp_path, NATGYM_OPENAI_API_KEY="sk-secret")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "plan.json").read_text()) == SPEC.plan.model_dump(mode="json")
    assert (server.headers[0]["authorization"], server.bodies[0]["model"]) == ("Bearer sk-secret", "thinker")


async def test_a_model_that_cannot_plan_is_told_in_one_line_with_the_field(tmp_path: Path):
    async with inference_server(chatted({"content": '{"custom_tools": []}'})) as server:
        done = await asyncio.to_thread(natgym, "plan", "x", "--server", server.url, "--repairs", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no valid plan after 0 repairs: scaffold_type: Field required" in done.stderr.splitlines()[-1]


def test_a_remote_planner_without_a_key_says_which_variable_to_set(tmp_path: Path):
    done = natgym("plan", "x", "--remote", cwd=tmp_path, NATGYM_OPENAI_API_KEY="")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set NATGYM_OPENAI_API_KEY" in done.stderr


def test_rows_of_ones_own_become_a_dataset_without_the_broken_ones(tmp_path: Path):
    (tmp_path / "own.jsonl").write_text(f"{json.dumps(row_of(SPEC, Split.TRAIN))}\n{{}}\n")
    refused = natgym("dataset", "nat_agent", "--rows", "own.jsonl", cwd=tmp_path)
    assert (refused.returncode, refused.stderr) == (2, "natgym: own.jsonl: row 2: plan: is missing\n")
    done = natgym("dataset", "nat_agent", "--rows", "own.jsonl", "--broken-rows", "skip", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"train": 1, "held_out": 0, "out": "nat_agent.parquet"}
    assert read_dataset(tmp_path / "nat_agent.parquet", Split.TRAIN) == [SPEC]


def test_an_unknown_mix_is_told_with_the_known_ones(tmp_path: Path):
    done = natgym("dataset", "nat_agent", "--mix", "ful", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "natgym: no mix 'ful'; did you mean 'full'? known: full, small\n")
