"""The command line as a user meets it: results on standard output, one line for a mistake, exit codes."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from core.settings import child_environ
from environments.base import Split
from environments.nat_agent.dataset import make_dataset, read_dataset, write_rows
from services.bind import claim_socket
from services.cli import COMMANDS
from tests.services.small_policy import ROOT, natgym

MISTAKES = {
    "upp": "no command 'upp'; did you mean 'up'",
    "serve apii": "no service 'apii'; did you mean 'api'",
    "serve env natagent": "no environment 'natagent'; did you mean 'nat_agent'",
    "serve api nat_agent": "takes no name, found 'nat_agent'",
    "serve env nat_agent --port 9000": "--port is a setting of `natgym serve api | trainer`",
    "serve env nat_agent --port 0": "--port is a setting of `natgym serve api | trainer`",
    "serve api --ray auto": "--ray is a setting of `natgym serve env`",
    "serve env nat_agent --ray 127.0.0.1:1": "--ray 127.0.0.1:1: no cluster answers there",
    "serve env nat_agent --ray auto --record x.jsonl": "--record: writes a file of one machine",
    "evaluate chess": "no environment 'chess'; known: gsm8k, nat_agent",
    "train nat_agnt": "no environment 'nat_agnt'; did you mean 'nat_agent'",
    "up --set policy.parser=hermez": "no parser 'hermez'; did you mean 'hermes'",
    "up --set rollouts.backend=locl": "no backend 'locl'; did you mean 'local'",
    "up --set policy.temprature=1": "unknown key 'policy.temprature'; did you mean 'temperature'",
    "up --out /dev/null/run": "/dev/null/run",
    "serve env": "which environment? known: gsm8k, nat_agent",
    "check nat_agent --set rollouts.backend=locl": "no backend 'locl'; did you mean 'local'",
    "check nat_agent --set env.max_turn=3": "unknown key 'env.max_turn'; did you mean 'max_turns'",
    "check nat_agent --set envi.max_turns=3": "unknown key 'envi'; did you mean 'env'",
    "check nat_agent --set env.max_turns": "expected key=value",
    "check nat_agent --config nowhere.toml": "nowhere.toml: No such file or directory",
    "serve api --prot 1": "unknown argument '--prot'; did you mean '--port'",
    "serve api --host 0.0.0.0": "set NATGYM_API_TOKEN",
    "process nat_agent --out x.jsonl --policy nobody": "expected gold, expert, an address",
    "process nat_agent --out x.jsonl --groups 0": "groups: Input should be greater than 0, found '0'",
    "up --resume": "name its folder by --out DIR",
    "up --steps 0": "steps: Input should be greater than or equal to 1, found '0'",
    "up --model nowhere": "there is no policy at nowhere",
    "plan hello": "recognised 0 tools, expected 1 to 3",
    "check nat_agent --env.max_turn 3": "unknown key 'env.max_turn'; did you mean 'max_turns'",
    "check nat_agent --envi.max_turns -3": "unknown key 'envi'; did you mean 'env'",
    "process gsm8k --out x.jsonl --env.max_turns -3": "env.max_turns: Input should be greater than 0, found '-3'",
    "evaluate gsm8k --openai.base_ulr http://a": "unknown key 'base_ulr'; did you mean 'base_url'",
    "evaluate nowhere.at_all:Env": "no environment 'nowhere.at_all:Env'",
    "check os:path": "environment 'os:path': expected a subclass of environments.base.Environment",
    "check my_env.py": "one of your own is module:Class",
    "process gsm8k --out . --groups 1": ".: Is a directory",
    "evaluate gsm8k --policy gold --tasks 1 --run /proc/nowhere": "/proc/nowhere: No such file or directory",
    "serve env gsm8k --api-url nowhere": "configuration: rollouts.api_url: String should match pattern '^https?://'",
    "evaluate gsm8k --policy http://me:hunter2@127.0.0.1:1": "policy.base_url: an address is logged and shown, and must",
    "serve trainer --api-url http://me:hunter2@127.0.0.1:1": "trainer.api_url: an address is logged and shown",
    "serve api --port 99999": "configuration: api.port: Input should be less than or equal to 65535",
    "policy --steps 0": "--steps: expected at least 1, found 0",
    "env begin x": "no verb of natgym env 'begin'",
    "env init 3d": "expected a name of letters, digits and _",
    "dataset gsm8k --out x.parquet": "no environment with a dataset of its own 'gsm8k'",
}


@cache
def told(line: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What became of a command line in an empty folder, and the files that it left there."""
    with TemporaryDirectory() as folder:
        return natgym(*line.split(), cwd=Path(folder)), [path.name for path in Path(folder).iterdir()]


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_exit_code_2(line: str):
    done, _ = told(line)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert MISTAKES[line] in done.stderr
    assert done.stderr.startswith("natgym: ")


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_leaves_no_file_behind(line: str):
    assert told(line)[1] == []


def test_the_overview_names_every_command():
    done = natgym("--help")
    assert done.returncode == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str):
    done = natgym(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: natgym {command}")


def test_a_port_in_use_is_named():
    with claim_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        done = natgym("run-api", "--port", str(port))
    assert done.returncode == 2
    assert done.stderr == f"natgym: port {port} on 127.0.0.1 is taken by another program: stop it or choose another port\n"


def test_a_missing_nat_runtime_names_the_make_target():
    done = natgym("check", "nat_agent", NATGYM_NAT_PYTHON="/nowhere/python")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/nowhere/python" in done.stderr
    assert "make nat" in done.stderr


def test_a_flag_wins_over_a_variable():
    done = natgym("check", "nat_agent", "--set", "env.nat_python=/elsewhere/python", NATGYM_NAT_PYTHON="/nowhere/python")
    assert "/elsewhere/python" in done.stderr


def test_an_unknown_parser_is_told_with_the_known_ones(random_policy: Path, tmp_path: Path):
    arguments = ("--model", str(random_policy), "--out", str(tmp_path), "--port", "0", "--set", "trainer.parser=hermez")
    done = natgym("serve", "trainer", *arguments)
    assert done.returncode == 2
    assert "no parser 'hermez'; did you mean 'hermes'" in done.stderr


@pytest.fixture
def broken_dataset(tmp_path: Path) -> Path:
    """Two good rows, and one between them whose plan is no plan."""
    make_dataset(tmp_path / "good.parquet", train=2, held_out=1, seed=0)
    rows = [
        {
            "task_id": spec.task_id,
            "split": split.value,
            "request": spec.plan.user_request,
            "plan": spec.plan.model_dump_json(),
            "hidden": json.dumps([one.model_dump(mode="json") for one in spec.hidden]),
        }
        for split in Split
        for spec in read_dataset(tmp_path / "good.parquet", split)
    ]
    rows[1]["plan"] = "{}"
    write_rows(tmp_path / "broken.parquet", rows)
    return tmp_path / "broken.parquet"


def test_a_broken_row_is_refused_by_its_number(broken_dataset: Path):
    done = natgym("serve", "env", "nat_agent", "--set", f"env.dataset={broken_dataset}")
    assert done.returncode == 2
    assert f"{broken_dataset}: row 2: plan.user_request: Field required" in done.stderr


@pytest.mark.nat
@pytest.mark.slow
def test_a_broken_row_is_skipped_where_that_is_asked_for(broken_dataset: Path):
    done = natgym(
        "check", "nat_agent", "--set", f"env.dataset={broken_dataset}", "--broken-rows", "skip", "--no-attacks", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"] == {"train": 1, "held_out": 1}
    assert "row 2" in done.stderr


def test_a_plan_is_printed_as_json():
    done = natgym("plan", "Make an agent for Ada that plans ahead: convert miles to kilometers.", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scaffold_type"] == "rewoo_agent"


def test_a_dataset_is_made_as_large_as_asked_for(tmp_path: Path):
    done = natgym("dataset", "nat_agent", "--out", str(tmp_path / "d.parquet"), "--train", "3", "--held-out", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert [len(read_dataset(tmp_path / "d.parquet", split)) for split in Split] == [3, 2]


def test_the_doctor_says_how_to_get_what_is_missing():
    done = natgym("doctor", "--json", NATGYM_NAT_PYTHON="/nowhere/python")
    (runtime,) = [finding for finding in json.loads(done.stdout) if finding["what"] == "NAT runtime"]
    assert done.returncode == 1
    assert (runtime["ok"], "make nat" in runtime["detail"]) == (False, True)


@pytest.mark.nat
@pytest.mark.slow
def test_data_is_made_from_the_expert_without_any_other_service(tmp_path: Path):
    out = tmp_path / "rows.jsonl"
    done = natgym("process", "nat_agent", "--out", str(out), "--groups", "1", "--group-size", "2", "--policy", "gold", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 2
    assert [json.loads(line)["conversations"][0]["from"] for line in out.read_text().splitlines()] == ["system", "system"]


def test_an_environment_is_its_own_program(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "environments.nat_agent", "serve", "--set", "env.max_turn=3"],
        cwd=tmp_path,
        env=child_environ(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "did you mean 'max_turns'" in done.stderr
