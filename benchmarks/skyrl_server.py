"""A Tinker-compatible server for the benchmarks: skyrl with JAX on the CPU, in the environment of `make tinker-server`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.trainer.engines.tinker_server import VENV, running_server

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class SkyrlServer:
    """One that is up: its address, and what it costs."""

    def __init__(self, url: str, group: int) -> None:
        self.url, self._group = url, group

    def cpu_seconds(self) -> float:
        """What its processes have used so far: the endpoint and the engine below it."""
        return sum(_group_seconds(self._group))


def installed() -> bool:
    """Whether there is a server to start."""
    return (VENV / ".ready").exists()


@contextmanager
def skyrl_server(model: Path, folder: Path, **backend: object) -> Iterator[SkyrlServer]:
    """A server for that model on a free port of loopback, compiling with all of XLA's optimisations; killed on the way out."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "JAX_", "XLA_"))}
    with running_server(model, folder, backend, environ) as (url, group):
        yield SkyrlServer(url, group)


def _group_seconds(group: int) -> Iterator[float]:
    """CPU seconds of each process of a group that lives, its threads that ended included."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # behind the name, which may hold anything: state, parent, group, ..., user and system time
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                yield (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
