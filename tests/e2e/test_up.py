"""`natgym up` as a user starts it: on the real NAT, with real processes, which are all gone at the end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.settings import child_environ
from services.policy_folder import SHIPPED_POLICY
from services.up.processes import PROC, descendants, parents
from tests.services.small_policy import NATGYM, ROOT, write_random_policy
from trainer.metrics import read_metrics

pytestmark = [pytest.mark.nat, pytest.mark.slow]

FIGURES = ("success_rate", "tool_generation", "integration", "workflow", "turns")
LIMIT_SECONDS = 300


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy that comes with the project, or one of its shape where it has not been made yet."""
    made = (SHIPPED_POLICY / "model.safetensors").is_file()
    return SHIPPED_POLICY if made else write_random_policy(tmp_path_factory.mktemp("policy"))


@contextmanager
def up(policy: Path, out: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`natgym up` with small groups, in the background."""
    size = ("--groups-per-batch", "2", "--group-size", "2", "--model", str(policy), "--out", str(out), "--seed", "0")
    process = subprocess.Popen(
        [*NATGYM, "up", *size, *arguments],
        cwd=ROOT,
        env=child_environ(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    """Return when there is something in a file."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} stays empty"
        time.sleep(0.2)


def running(pids: list[int]) -> list[str]:
    """Command lines of the processes that are still there and not only waiting to be collected."""
    found: list[str] = []
    for pid in pids:
        try:
            if (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append((PROC / str(pid) / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def service(process: "subprocess.Popen[str]", words: str) -> int:
    """The process of one service."""
    below = descendants(process.pid, parents())
    return next(pid for pid in below if words in (PROC / str(pid) / "cmdline").read_text().replace("\0", " "))


def test_it_trains_evaluates_and_leaves_files_but_no_process(policy: Path, tmp_path: Path):
    out = tmp_path / "run"
    with up(policy, out, "--steps", "2", "--eval-tasks", "2", "--eval-samples", "1") as process:
        wait_for(out / "groups.jsonl", process)
        below = descendants(process.pid, parents())
        printed, told = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, told
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["seconds"] > 0
    assert [
        name for when in ("before", "after") for name in FIGURES if set(summary[when][name]) != {"mean", "low", "high"}
    ] == []
    assert {"rollout API", "trainer", "environment server", "environment server children"} <= set(summary["peak_mib"])
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert (out / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert "success rate" in printed
    assert len(below) > 3
    assert running(below) == []


def test_a_killed_service_is_named_the_others_stop_and_the_run_can_be_resumed(policy: Path, tmp_path: Path):
    out = tmp_path / "run"
    with up(policy, out, "--steps", "100", "--eval-tasks", "0") as process:
        wait_for(out / "metrics.jsonl", process)
        below = descendants(process.pid, parents())
        os.kill(service(process, "serve trainer"), signal.SIGKILL)
        _, told = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 1
    assert f"the trainer was killed by SIGKILL; its log: {out}/logs/trainer.log" in told
    assert "Traceback" not in told
    assert running(below) == []
    done = len((out / "metrics.jsonl").read_text().splitlines())
    with up(policy, out, "--resume", "--steps", str(done + 1)) as process:
        _, told = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, told
    assert json.loads((out / "summary.json").read_text())["steps"] >= done


PHASES = {  # arguments that lead to a phase, and what is there as soon as it has begun; an evaluation plays 32 at once
    "starting": (("--steps", "100", "--eval-tasks", "0"), "logs/rollout_api.log"),
    "evaluating before": (("--steps", "100", "--eval-tasks", "100"), "logs/evaluation-before.progress"),
    "training": (("--steps", "100", "--eval-tasks", "0"), "groups.jsonl"),
    "evaluating after": (("--steps", "1", "--eval-tasks", "40", "--eval-samples", "1"), "logs/evaluation-after.progress"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_ends_every_phase_quietly_and_leaves_no_process(policy: Path, tmp_path: Path, phase: str):
    out, (arguments, begun) = tmp_path / "run", PHASES[phase]
    with up(policy, out, *arguments) as process:
        wait_for(out / begun, process)
        below = descendants(process.pid, parents())
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=LIMIT_SECONDS)
    # a machine that is busy enough may have a service killed after its grace, which is told before
    assert (process.returncode, told.splitlines()[-1]) == (130, f"stopped; `natgym up --resume --out {out}` goes on")
    assert running(below) == []
    assert (out / "reward.png").exists() == bool(read_metrics(out / "metrics.jsonl"))


def test_sigterm_ends_it_as_ctrl_c_does(policy: Path, tmp_path: Path):
    out = tmp_path / "run"
    with up(policy, out, "--steps", "100", "--eval-tasks", "0") as process:
        wait_for(out / "logs/rollout_api.log", process)
        below = descendants(process.pid, parents())
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, told.splitlines()[-1]) == (143, f"stopped; `natgym up --resume --out {out}` goes on")
    assert running(below) == []


def test_services_die_with_the_process_that_started_them(policy: Path, tmp_path: Path):
    out = tmp_path / "run"
    with up(policy, out, "--steps", "100", "--eval-tasks", "0") as process:
        wait_for(out / "groups.jsonl", process)
        below = descendants(process.pid, parents())
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 30
    while (left := running(below)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
