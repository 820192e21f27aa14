"""What sandboxes cost, beside plain subprocesses and other ways to run a command in one.

    python -m benchmarks.backends [--repeats N] [--sandboxes 400] [--on docker ...] [--swerex PYTHON] [--json] [--record]

Figures are medians of wall time in milliseconds. What is compared is measured in turns, one after the other in one run, so
that the load of the machine cancels. A figure with a bar in milliseconds and no peer depends on the load; `load_average` is
recorded beside it. `--on` names further backends of the conformance suite's registry, which says how to start each one here;
with docker, one `docker exec` per command is measured beside our agent in the same container. `--swerex` is the interpreter
of an environment with SWE-ReX in it: python3 -m venv DIR && DIR/bin/pip install swe-rex==1.4.0.
`--record` writes benchmarks/results/backends.json.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from backends.base import Backend, Sandbox, SandboxSpec, SessionKind
from backends.local import LocalBackend
from backends.start import BASE_ENV
from benchmarks.record import machine, write_record
from tests.backends.conformance.registry import runtime

Act = Callable[[], Awaitable[object]]
Row = dict[str, object]

COMMAND = ["bash", "-c", "true"]
EXEC_BARS = {"local": 1.0, "docker": 1.2, "singularity": 1.2, "ssh": 1.2}
SESSION_BAR_MS, LIFE_BAR_MS, RESET_BAR_MS = 0.3, 25.0, 40.0
MANY_BAR_SECONDS, MANY_BAR_MIB = 12.0, 12.0
PEER_BAR = 20.0
PAUSE_SECONDS = 0.2
FILES, FILE_BYTES = 1000, 50_000
SWEREX = """
import asyncio, json, sys, time
from swerex.deployment.local import LocalDeployment
from swerex.runtime.abstract import BashAction, CreateBashSessionRequest

async def main():
    deployment = LocalDeployment()
    await deployment.start()
    await deployment.runtime.create_session(CreateBashSessionRequest())
    for line in sys.stdin:
        started = time.perf_counter()
        await deployment.runtime.run_in_session(BashAction(command="true"))
        print(time.perf_counter() - started, flush=True)
    await deployment.stop()

asyncio.run(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--sandboxes", type=int, default=400)
    parser.add_argument("--on", action="append", default=[], help="another backend to measure")
    parser.add_argument("--swerex", help="an interpreter that has SWE-ReX")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    rows = asyncio.run(measured(arguments))
    print(f"{'':<44}{'ours':>10}{'peer':>10}{'ratio':>8}{'bar':>8}")
    for name, row in rows.items():
        ours, peer, ratio, bar = (row[key] for key in ("ours", "peer", "ratio", "bar"))
        print(f"{name:<44}{_short(ours):>10}{_short(peer):>10}{_short(ratio):>8}{_short(bar):>8}  {row['unit']}")
    if arguments.record:
        write_record("backends", {"machine": machine(), "rows": rows})
    if arguments.json:
        print(json.dumps(rows))


async def measured(arguments: argparse.Namespace) -> dict[str, Row]:
    """All rows: name -> ours, peer, ratio, bar, better, unit."""
    rows: dict[str, Row] = {}
    backend = LocalBackend()
    try:
        rows |= await warm(backend, "local", arguments.repeats)
        rows |= await life(backend, arguments.repeats // 4)
        rows |= await resets(backend, 7)
        rows |= await many(backend, arguments.sandboxes)
        if arguments.swerex:
            rows |= await beside_swerex(backend, arguments.swerex, 15)
    finally:
        await backend.aclose()
    for name in arguments.on:
        async with runtime(name)() as other:
            rows |= await warm(other, name, arguments.repeats)
            if name == "docker":
                rows |= await beside_docker_exec(other, 10)
    return rows


async def warm(backend: Backend, name: str, repeats: int) -> dict[str, Row]:
    """A command in a sandbox that stands, and one expression of a Python session."""
    sandbox = await backend.create(SandboxSpec())
    session = await sandbox.session(kind=SessionKind.PYTHON)
    await session.run("1 + 1", timeout_seconds=60)
    ours, peer = await in_turns(lambda: sandbox.exec(COMMAND, timeout_seconds=60), plain_subprocess, repeats)
    line, _ = await in_turns(lambda: session.run("1 + 1", timeout_seconds=60), nothing, repeats)
    await sandbox.destroy()
    return {
        f"warm exec, {name}": compared(ours, peer, EXEC_BARS.get(name), "ms"),
        f"python session, one expression, {name}": absolute(line, SESSION_BAR_MS if name == "local" else None, "ms"),
    }


async def life(backend: Backend, repeats: int) -> dict[str, Row]:
    """Create, first command, destroy."""

    async def whole() -> None:
        sandbox = await backend.create(SandboxSpec())
        await sandbox.exec(["true"], timeout_seconds=60)
        await sandbox.destroy()

    ours, _ = await in_turns(whole, nothing, repeats)
    return {"create + first exec + destroy": absolute(ours, LIFE_BAR_MS, "ms")}


async def resets(backend: Backend, repeats: int) -> dict[str, Row]:
    """Put a sandbox back that holds 1,000 files of 50 MB together: to empty, and to a snapshot of as many."""
    sandbox = await backend.create(SandboxSpec(disk_mib=128))
    files = {f"d{number % 20}/f{number}": os.urandom(FILE_BYTES) for number in range(FILES)}
    to_empty, to_snapshot = [], []
    await sandbox.upload(dict(files))
    kept = await sandbox.snapshot()
    for _ in range(repeats):
        to_snapshot.append(await seconds(lambda: sandbox.reset(kept)))
        to_empty.append(await seconds(sandbox.reset))
        await sandbox.upload(dict(files))
    await sandbox.destroy()
    return {
        "reset of 1,000 files / 50 MB to empty": absolute(median(to_empty) * 1e3, RESET_BAR_MS, "ms"),
        "reset of 1,000 files / 50 MB to a snapshot": absolute(median(to_snapshot) * 1e3, RESET_BAR_MS, "ms"),
    }


async def many(backend: Backend, number: int) -> dict[str, Row]:
    """That many sandboxes alive at once, each having run a command; what they occupy, and that none is left."""
    before, started = available_mib(), time.perf_counter()
    gate = asyncio.Semaphore(8)

    async def one() -> Sandbox:
        async with gate:
            sandbox = await backend.create(SandboxSpec())
            await sandbox.exec(["true"], timeout_seconds=60)
            return sandbox

    sandboxes = await asyncio.gather(*(one() for _ in range(number)))
    taken = time.perf_counter() - started
    each = (before - available_mib()) / number
    await asyncio.gather(*(sandbox.destroy() for sandbox in sandboxes))
    left = sum([await sandbox.alive() for sandbox in sandboxes])
    return {
        f"{number} sandboxes alive at once": absolute(taken, MANY_BAR_SECONDS * number / 400, "s"),
        "memory of each": absolute(each, MANY_BAR_MIB, "MiB"),
        "left after destroy": absolute(left, 0, "sandboxes"),
    }


async def beside_swerex(backend: Backend, python: str, repeats: int) -> dict[str, Row]:
    """A line in a bash session of ours, and in one of SWE-ReX."""
    sandbox = await backend.create(SandboxSpec())
    session = await sandbox.session()
    await session.run("true", timeout_seconds=60)
    pipe = asyncio.subprocess.PIPE
    peer = await asyncio.create_subprocess_exec(
        python, "-c", SWEREX, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(await seconds(lambda: session.run("true", timeout_seconds=60)))
        peer.stdin.write(b"\n")
        theirs.append(float(await peer.stdout.readline()))
    peer.stdin.close()
    await peer.wait()
    await sandbox.destroy()
    return {"bash session beside SWE-ReX": times_faster(median(ours) * 1e3, median(theirs) * 1e3)}


async def beside_docker_exec(backend: Backend, repeats: int) -> dict[str, Row]:
    """A command by our agent, and one by `docker exec` in the same container.

    Between the two is a pause, because docker is busy for a while after its command has returned.
    """
    program = shutil.which("docker")
    if program is None:
        return {}
    sandbox = await backend.create(SandboxSpec())
    listed = await asyncio.to_thread(
        subprocess.run, [program, "ps", "-q", "--latest"], capture_output=True, text=True, check=True
    )
    command = [program, "exec", listed.stdout.strip(), *COMMAND]

    async def by_docker() -> None:
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 0

    ours, peer = await in_turns(lambda: sandbox.exec(COMMAND, timeout_seconds=60), by_docker, repeats, PAUSE_SECONDS)
    await sandbox.destroy()
    return {"exec beside docker exec": times_faster(ours, peer)}


async def in_turns(ours: Act, peer: Act, repeats: int, pause_seconds: float = 0.0) -> tuple[float, float]:
    """Medians of both in milliseconds, measured alternately, with a pause before each."""
    mine, theirs = [], []
    for _ in range(repeats):
        await asyncio.sleep(pause_seconds)
        mine.append(await seconds(ours))
        await asyncio.sleep(pause_seconds)
        theirs.append(await seconds(peer))
    return median(mine) * 1e3, median(theirs) * 1e3


async def seconds(act: Act) -> float:
    started = time.perf_counter()
    await act()
    return time.perf_counter() - started


async def plain_subprocess() -> None:
    """What a program without sandboxes does: a process with the same environment, and its output."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*COMMAND, stdout=pipe, stderr=pipe, env=BASE_ENV)
    await process.communicate()


async def nothing() -> None:
    return None


def compared(ours: float, peer: float, bar: float | None, unit: str) -> Row:
    return {
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "bar": bar,
        "better": "lower",
        "unit": f"{unit}, ratio to the peer",
    }


def absolute(ours: float, bar: float | None, unit: str) -> Row:
    return {"ours": ours, "peer": None, "ratio": None, "bar": bar, "better": "lower", "unit": unit}


def times_faster(ours: float, peer: float) -> Row:
    return {"ours": ours, "peer": peer, "ratio": peer / ours, "bar": PEER_BAR, "better": "higher", "unit": "ms, times faster"}


def available_mib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))


def _short(figure: object) -> str:
    return "-" if figure is None else f"{figure:.2f}"


if __name__ == "__main__":
    main()
