"""The two servers that `benchmarks.rollout_api` compares, as processes, and the groups that they are given."""

import http.client
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NamedTuple, Self

import orjson

from core import wire
from core.types import Message, Reward, Role, ScoredGroup, StopReason, Task, Trajectory, Turn

PEER_PACKAGES = ("fastapi==0.165.0", "uvicorn==0.54.0", "pydantic==2.14.3")
PEER = "atroposlib==0.4.0"
OURS = "import sys; from services.rollout_api.server import RolloutApiConfig, serve_api; serve_api(RolloutApiConfig.model_validate_json(sys.argv[1]))"  # noqa: E501
START_SECONDS = 120


class Usage(NamedTuple):
    """CPU seconds so far, user and system, and resident MB now."""

    cpu: float
    resident_mb: float


class Server:
    """One of the two as a process on a free port of this machine."""

    def __init__(self, command: list[str], port: int, cwd: Path | None = None) -> None:
        self.port = port
        self._process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._await_port()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def usage(self) -> Usage:
        """What the process has used, all of its threads."""
        # the clock that counts the CPU time of another process, in nanoseconds (Linux: MAKE_PROCESS_CPUCLOCK)
        cpu = time.clock_gettime((~self._process.pid << 3) | 2)
        resident = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return Usage(cpu, resident / 1e6)

    def connect(self) -> http.client.HTTPConnection:
        """A connection that stays open between requests."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """One request on a connection of its own; the answer's body. Raises RuntimeError unless it is a success."""
        return send(self.connect(), method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})

    def _await_port(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError("a server ended before it listened")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"a server did not listen within {START_SECONDS} s")


def send(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
    """One request; the answer's body. Raises RuntimeError unless it is a success."""
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
    return content


def our_server(folder: Path) -> Server:
    """natgym's rollout API with its queue below that folder."""
    port = free_port()
    config = {"port": port, "database": str(folder / f"queue{port}.sqlite"), "max_queued_groups": 1_000_000}
    return Server([sys.executable, "-c", OURS, orjson.dumps(config).decode()], port)


def peer_server(folder: Path) -> Server:
    """run-api of atroposlib, in a virtual environment at `folder` that is made if it is not there."""
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        print(f"installing {PEER} into {folder}")
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEER_PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", PEER], check=True)  # the server needs none of its other packages
        (folder / ".ready").touch()
    port = free_port()
    return Server([str(python), "-m", "atroposlib.cli.run_api", "--host", "127.0.0.1", "--port", str(port)], port, folder)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Rows(NamedTuple):
    """Sequences of one group: prompts, completions, logprobs as float32 gives them."""

    prompts: list[list[int]]
    completions: list[list[int]]
    logprobs: list[list[float]]


def rows(sequences: int, tokens: int, seed: int = 0) -> Rows:
    """Random ids, a quarter of them prompt, and logprobs as a softmax in float32 gives them."""
    chance = random.Random(seed)
    split = tokens // 4

    def ids(count: int) -> list[int]:
        return [chance.randrange(150_000) for _ in range(count)]

    def logprobs(count: int) -> list[float]:
        return [struct.unpack("f", struct.pack("f", -chance.expovariate(2.0)))[0] for _ in range(count)]

    every = range(sequences)
    return Rows([ids(split) for _ in every], [ids(tokens - split) for _ in every], [logprobs(tokens - split) for _ in every])


def atropos_group(data: Rows, score: float = 0.0) -> bytes:
    """The rows as ScoredData in JSON; scores tell groups apart."""
    pairs = list(zip(data.prompts, data.completions, strict=True))
    return orjson.dumps(
        {
            "tokens": [prompt + completion for prompt, completion in pairs],
            "masks": [[-100] * len(prompt) + completion for prompt, completion in pairs],
            "scores": [score + number / 8 for number in range(len(pairs))],
            "inference_logprobs": [
                [1.0] * len(prompt) + logprobs for prompt, logprobs in zip(data.prompts, data.logprobs, strict=True)
            ],
        }
    )


def native_group(data: Rows, name: str) -> bytes:
    """The rows as a ScoredGroup in msgpack, under that id."""
    message = Message(role=Role.ASSISTANT, content="")
    trajectories = [
        Trajectory(
            id=f"{number}",
            task_id="task",
            turns=(Turn(prompt_ids=tuple(prompt), completion_ids=tuple(ids), logprobs=tuple(logprobs), message=message),),
            stop=StopReason.FINISHED,
            reward=Reward.of(correct=number / 8),
        )
        for number, (prompt, ids, logprobs) in enumerate(zip(*data, strict=True))
    ]
    task = Task(id="task", environment="sums", messages=(Message(role=Role.USER, content="2 + 2?"),))
    return wire.encode(ScoredGroup(id=name, environment="sums", task=task, trajectories=tuple(trajectories)))


def renamed(body: bytes, name: str, other: str) -> bytes:
    """A group in msgpack under another id of the same length."""
    assert len(name) == len(other)
    return body.replace(name.encode(), other.encode(), 1)
