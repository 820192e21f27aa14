"""A Tinker-compatible server for the benchmarks: skyrl with JAX on the CPU, in the environment of `make tinker-server`."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv-tinker-server"
LAUNCHER = ROOT / "tests/trainer/engines/tinker_launcher.py"
START_SECONDS = 180
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class SkyrlServer:
    """One that is up: its address, and what it costs."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url, self._process = url, process

    def cpu_seconds(self) -> float:
        """What its processes have used so far: the endpoint and the engine below it."""
        return sum(_group_seconds(self._process.pid))


def installed() -> bool:
    """Whether there is a server to start."""
    return (VENV / ".ready").exists()


@contextmanager
def skyrl_server(model: Path, folder: Path, **backend: object) -> Iterator[SkyrlServer]:
    """A server for that model on a free port of loopback, compiling with all of XLA's optimisations; killed on the way out."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(VENV / "bin/python", LAUNCHER, "--port", port, "--base-model", model, "--backend", "jax"),
        *("--backend-config", json.dumps(backend), "--database-url", f"sqlite:///{folder / 'server.db'}"),
        *("--checkpoints-base", folder / "checkpoints"),
    ]
    quiet = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "JAX_", "XLA_"))}
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)], stdout=output, stderr=output, cwd=folder, env=environ | quiet, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, process, folder / "server.log")
        yield SkyrlServer(url, process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/api/v1/healthz", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the Tinker server did not come up: {log.read_text(errors='replace')[-2000:]}")


def _group_seconds(group: int) -> Iterator[float]:
    """CPU seconds of each process of a group that lives, its threads that ended included."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # behind the name, which may hold anything: state, parent, group, ..., user and system time
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                yield (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
