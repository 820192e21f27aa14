"""Atropos's own programs, as they are installed, at work with this rollout API."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.services.rollout_api.harness import SERVE
from tests.services.rollout_api.stock_atropos import GIVEN, PYTHON, ROOT, needs_atropos, running, site_packages
from tests.tool_call_parsers.tiny_model import write_model

HERE = Path(__file__).parent
OFFSET = 1000  # see stock_environment
GROUPS = 2  # of a batch of the stock trainer
LONG_SECONDS = 180.0  # a machine that does much else

pytestmark = [needs_atropos, pytest.mark.slow]


class KeptSocket:
    """A rollout API whose socket stays open while it is replaced, as under systemd."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._started = 0

    @contextmanager
    def process(self) -> Iterator[subprocess.Popen]:
        """One life of it."""
        self._started += 1
        config = json.dumps({"database": str(self._folder / "q"), "min_free_mib": 0})
        descriptor = self._socket.fileno()
        command = ["bash", "-c", GIVEN, "bash", str(descriptor), sys.executable, "-c", SERVE, config]
        log = self._folder / f"api{self._started}.log"
        with log.open("wb") as output:
            life = subprocess.Popen(command, pass_fds=[descriptor], stdout=output, stderr=output, cwd=ROOT)
        try:
            yield life
        finally:
            life.kill()
            life.wait()

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KeptSocket]:
    kept = KeptSocket(tmp_path)
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer"), "{{ messages }}")


@contextmanager
def stock_environment(url: str, tokenizer: Path, log: Path) -> Iterator[subprocess.Popen]:
    options = {"rollout_server_url": url, "tokenizer_name": tokenizer, "use_wandb": "false", "total_steps": 100000}
    flags = [text for name, value in options.items() for text in (f"--env.{name}", str(value))]
    with running([PYTHON, HERE / "stock_environment.py", "serve", *flags], log) as process:
        yield process


def wait_for(condition: Callable[[], bool], what: str, *lives: tuple[subprocess.Popen, Path]) -> None:
    """Poll; fails with the log of a process that ended meanwhile."""
    until = time.monotonic() + LONG_SECONDS
    while not condition():
        for process, log in lives:
            assert process.poll() is None, f"ended while waiting for {what}:\n{log.read_text()[-3000:]}"
        assert time.monotonic() < until, "\n".join([f"no {what}", *(log.read_text()[-3000:] for _, log in lives)])
        time.sleep(0.05)


def lines(path: Path) -> list[dict]:
    """The batches that a trainer printed, or the rows of a file, whole ones only."""
    if not path.exists():
        return []
    texts = [line.removeprefix("batch ") for line in path.read_text().splitlines()]
    return [json.loads(text) for text in texts if text.startswith("{") and text.endswith("}")]


def numbers(batch: dict) -> list[int]:
    """Which groups a batch has, each once a sequence."""
    return [first - OFFSET for first in batch["first"]]


def test_environment_and_trainer_live_through_the_death_of_the_server(tmp_path: Path, api: KeptSocket, tokenizer: Path):
    wanted, log, trained = 12, tmp_path / "env.log", tmp_path / "trainer.log"
    command = [sys.executable, HERE / "stock_trainer.py", site_packages(), api.url, wanted]
    with running([str(part) for part in command], trained) as trainer, stock_environment(api.url, tokenizer, log) as env:
        lives = ((trainer, trained), (env, log))
        with api.process() as first:
            wait_for(lambda: len(lines(trained)) >= 3, "three batches", *lives)
            queued = httpx.get(f"{api.url}/status").json()
            first.kill()
        with api.process():
            wait_for(lambda: len(lines(trained)) >= wanted, "the last batch", (env, log))
            assert env.poll() is None
            status = httpx.get(f"{api.url}/status").json()
            left = httpx.get(f"{api.url}/v1/groups", params={"run": "atropos", "state": "queued", "limit": 1000}).json()
            waiting = [httpx.get(f"{api.url}/v1/groups/{one['id']}").json()["tokens"][0][0] for one in left["groups"]]
    batches = lines(trained)
    taken = [number for batch in batches for number in numbers(batch)]
    groups = taken[::4]
    assert {json.dumps(batch["shapes"]) for batch in batches} == {"[[8, 64], [8, 64], [8, 64]]"}
    assert taken == [number for number in groups for _ in range(4)]  # no group was split
    # none was given twice, but for a batch that had left when the server died and was not noted yet
    assert len(groups) - len(set(groups)) in (0, GROUPS)
    known = {*groups, *(number - OFFSET for number in waiting)}
    assert not set(range(max(groups))) - known  # none was lost
    assert status["current_step"] >= max(queued["current_step"], wanted - 1)


def test_atropos_writes_sft_and_dpo_data_from_one_environment(tmp_path: Path, api: KeptSocket, tokenizer: Path):
    log = tmp_path / "env.log"
    shared = ["--api-url", api.url, "--group-size", "4", "--num-seqs-to-save", "6", "--tokenizer", str(tokenizer)]

    def generated(kind: str, *more: str) -> list[dict]:
        out, said = tmp_path / f"{kind}.jsonl", tmp_path / f"{kind}.log"
        with running([PYTHON, "-m", f"atroposlib.cli.{kind}", out, *shared, *more], said) as process:
            wait_for(lambda: process.poll() is not None, f"the end of {kind}", (env, log))
        assert process.returncode == 0, said.read_text()[-3000:]
        return lines(out)

    with api.process(), stock_environment(api.url, tokenizer, log) as env:
        sft = generated("sft", "--tasks-per-step", "2")
        dpo = generated("dpo")  # forgets everything first: the environment goes on all the same
    assert len(sft) >= 6
    assert {tuple(row) for row in sft} == {("prefix", "completion", "score")}
    assert all(row["score"] > 0 and "careful agent" in row["prefix"] for row in sft)
    assert len(dpo) >= 6
    assert all(row["pos"] != row["neg"] for row in dpo)
