"""A docker daemon for the tests: the one that runs here, or one of their own, which ends with them."""

import atexit
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from backends.base import Capabilities
from backends.docker import DockerBackend
from core.errors import MissingRuntime
from tests.backends.processes import processes_with

RUNNING = Path("/var/run/docker.sock")
START_SECONDS = 60
END_SECONDS = 30
QUIET = ("--iptables=false", "--ip6tables=false", "--bridge=none")
"""A daemon that leaves the machine's network alone; its containers have none, or their own."""


@contextmanager
def docker_daemon() -> Iterator[str]:
    """The address of a daemon. Raises MissingRuntime."""
    if "DOCKER_HOST" in os.environ:
        yield os.environ["DOCKER_HOST"]
    elif answers(RUNNING):
        yield f"unix://{RUNNING}"
    elif shutil.which("dockerd") is None:
        raise MissingRuntime("no daemon runs and dockerd is not installed (apt-get install docker.io)")
    elif os.geteuid() != 0:
        raise MissingRuntime("no daemon runs and only root can start one (systemctl start docker)")
    else:
        # the path of a socket holds about 100 characters, so this is not pytest's own directory
        with TemporaryDirectory(prefix="natgym-dockerd-", ignore_cleanup_errors=True) as directory:
            daemon = OwnDaemon(Path(directory))
            try:
                daemon.start()
                yield daemon.address
            finally:
                daemon.end()


@cache
def shared_daemon() -> str:
    """The address of one daemon for all tests. Raises MissingRuntime."""
    daemon = ExitStack()
    address = daemon.enter_context(docker_daemon())
    atexit.register(daemon.close)
    return address


@asynccontextmanager
async def docker() -> AsyncIterator[DockerBackend]:
    """The backend on that daemon, as a user's process would find it: by DOCKER_HOST."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", shared_daemon())
        backend = ProbedOnce()
        try:
            yield backend
        finally:
            await backend.aclose()


class ProbedOnce(DockerBackend):
    """A daemon does not change what it enforces between two tests, and asking it takes a second."""

    async def probe(self) -> Capabilities:
        """See Backend.probe."""
        if not _probed:
            _probed.append(await super().probe())
        return _probed[0]


_probed: list[Capabilities] = []


def answers(path: Path) -> bool:
    """Whether a daemon listens there."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        try:
            link.connect(str(path))
            link.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return link.recv(64).startswith(b"HTTP/1.0 200")
        except OSError:
            return False


class OwnDaemon:
    """A daemon in a directory of its own, which may be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._socket = directory, directory / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"unix://{self._socket}"

    def start(self) -> None:
        """Start it and wait until it answers. Raises MissingRuntime where it does not."""
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        at = [f"--{name}={self._directory / place}" for name, place in places.items()]
        log = self._directory / "log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                # it goes with these tests, however they end
                ["setpriv", "--pdeathsig", "TERM", "dockerd", f"--host={self.address}", *QUIET, *at],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not answers(self._socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise MissingRuntime(f"dockerd does not start here: {last}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it, and the containerd that it started, or another would wait for that one in vain. What runs below stays."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        containerd = str(self._directory / "exec/containerd/containerd.toml")
        deadline = time.monotonic() + END_SECONDS
        while (found := processes_with(containerd)) and time.monotonic() < deadline:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        # where nobody reaps orphans, its pid seems alive for ever
        (self._directory / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def end(self) -> None:
        """End it, with all that it started."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in processes_with(str(self._directory)):  # of one that was killed and not started again
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for line in reversed(Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()):
            if (place := line.split()[1]).startswith(str(self._directory)):
                subprocess.run(["umount", "--lazy", place], check=False)
