"""A real Tinker server for the tests: skyrl on the CPU, in an environment and a process of its own."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]
VENV = ROOT / ".venv-tinker-server"
LAUNCHER = Path(__file__).parent / "tinker_launcher.py"
START_SECONDS = 180.0
ROWS = 8
SLOTS = 16

needs_tinker_server = pytest.mark.skipif(
    not (VENV / ".ready").exists(), reason="no Tinker server is installed: make tinker-server"
)


@contextmanager
def tinker_server(model: Path, folder: Path) -> Iterator[str]:
    """The address of a server for that model, which compiles quickly what then runs slowly."""
    # rows in parts of one size, so that each function is compiled once; a slot for each model that the tests open
    backend = {
        "max_lora_adapters": SLOTS,
        "max_lora_rank": 8,
        "sample_max_num_sequences": 4 * ROWS,
        "train_micro_batch_size": ROWS,
    }
    # what is compiled here runs for seconds: no time is spent on making it fast
    quick = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    with running_server(model, folder, backend, {**os.environ, **quick}) as (url, _):
        yield url


@contextmanager
def running_server(
    model: Path, folder: Path, backend: Mapping[str, object], environ: Mapping[str, str]
) -> Iterator[tuple[str, int]]:
    """Address and process group of a server on a free port of loopback; killed with all that it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(VENV / "bin/python", LAUNCHER, "--port", port, "--base-model", model, "--backend", "jax"),
        *("--backend-config", json.dumps(backend), "--database-url", f"sqlite:///{folder / 'server.db'}"),
        *("--checkpoints-base", folder / "checkpoints"),
    ]
    quiet = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**environ, **quiet},
            start_new_session=True,  # its engine is a process below it
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, process, folder / "server.log")
        yield url, process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the Tinker server ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/api/v1/healthz", timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the Tinker server did not answer within {START_SECONDS:g} seconds")


class Wire:
    """A port that passes everything on to a server, until it is cut: then nobody listens there any more."""

    def __init__(self, url: str) -> None:
        self._target = httpx.URL(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close the port and every connection through it. Safe to repeat."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._target.host, self._target.port or 80))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
