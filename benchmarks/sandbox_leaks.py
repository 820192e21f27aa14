"""What sandboxes leave behind when they end, and when the process that made them is killed: nothing.

    python -m benchmarks.sandbox_leaks [--cycles 100] [--on local docker singularity ssh] [--json] [--record]

Every cycle makes a sandbox, writes a file, leaves a process of its own session and a session's behind, keeps a snapshot, and
destroys it. Counted before and after: descriptors and children of this process, its memory, and of the whole machine
processes, mounts, control groups and network namespaces. Then a process that holds as many sandboxes as `--held` is killed
with SIGKILL, and the same is counted once nothing of it runs any more; `seconds` is how long that takes. Each row is what
is left over; an idle machine is assumed, where nothing else starts or ends meanwhile. As root, for the namespaces of others.
`--record` writes benchmarks/results/sandbox_leaks.json.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path

from backends.base import Backend, SandboxSpec
from benchmarks.record import machine, write_record
from tests.backends.conformance.registry import runtime
from tests.backends.processes import children, gone, processes_with

Row = dict[str, object]
SPEC = SandboxSpec(disk_mib=16)
MEMORY_BAR_MIB, GONE_BAR_SECONDS = 8.0, 5.0
WAIT_SECONDS = 60.0
WARM_CYCLES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--held", type=int, default=5, help="sandboxes of the process that is killed")
    parser.add_argument("--on", nargs="+", default=["local"], help="backends of the conformance suite's registry")
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    if arguments.hold:
        asyncio.run(hold(arguments.hold, arguments.held))
        return
    rows: dict[str, Row] = {}
    for name in arguments.on:
        rows |= asyncio.run(measured(name, arguments.cycles, arguments.held))
    print(f"{'':<52}{'ours':>10}{'bar':>8}")
    for name, row in rows.items():
        print(f"{name:<52}{row['ours']:>10.2f}{row['bar']:>8.1f}  {row['unit']}")
    if arguments.record:
        write_record("sandbox_leaks", {"machine": machine(), "cycles": arguments.cycles, "rows": rows})
    if arguments.json:
        print(json.dumps(rows))


async def measured(name: str, cycles: int, held: int) -> dict[str, Row]:
    """All rows of one backend."""
    rows: dict[str, Row] = {}
    async with runtime(name)() as backend:
        for _ in range(WARM_CYCLES):
            await cycle(backend)  # the first ones fill caches, make images and open connections
        before, mib = footprint(), resident_mib()
        for _ in range(cycles):
            await cycle(backend)
        after = await settled(before)
        rows |= {f"{kind} left by {cycles} cycles, {name}": left(after[kind] - before[kind], kind) for kind in before}
        row = left(resident_mib() - mib, "MiB")
        rows[f"memory grown by {cycles} cycles, {name}"] = {**row, "bar": MEMORY_BAR_MIB}
        before = footprint()
        seconds = await kill_an_owner(backend, name, held)
        after = await settled(before)
        rows |= {f"{kind} left by a killed owner, {name}": left(after[kind] - before[kind], kind) for kind in before}
        rows[f"until a killed owner's are gone, {name}"] = {**left(seconds, "s"), "bar": GONE_BAR_SECONDS}
    return rows


async def cycle(backend: Backend) -> None:
    """One sandbox's life."""
    sandbox = await backend.create(SPEC)
    await sandbox.write("a", bytes(1 << 20))
    await sandbox.exec(["sh", "-c", "setsid sleep 4600 & cat a"], timeout_seconds=60)
    await sandbox.snapshot()
    await (await sandbox.session()).run("sleep 4600 &", timeout_seconds=60)
    await sandbox.destroy()


async def kill_an_owner(backend: Backend, name: str, held: int) -> float:
    """Kill a process that holds sandboxes with commands in them; seconds until none of these runs."""
    mark = str(int.from_bytes(os.urandom(4), "big"))
    settings = backend.config.model_dump_json() if name == "ssh" else ""  # type: ignore[attr-defined]
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.sandbox_leaks", "--held", str(held), "--hold", f"{name} {mark} {settings}"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"up\n"
    assert len(processes_with(f"4601.{mark}")) >= held
    started = time.perf_counter()
    owner.kill()
    await owner.wait()
    if not await gone(f"4601.{mark}", WAIT_SECONDS):
        raise SystemExit(f"{name}: commands of a killed owner still run after {WAIT_SECONDS:g} s")
    seconds = time.perf_counter() - started
    await backend.reap()
    return seconds


async def hold(what: str, held: int) -> None:
    """Be the process that is killed: hold sandboxes for as long as it lives."""
    from backends.base import BACKENDS

    name, mark, settings = what.split(" ", 2)
    kind = BACKENDS.load(name)
    backend = kind(kind.config_type.model_validate_json(settings)) if settings else kind()  # type: ignore[attr-defined]
    for _ in range(held):
        sandbox = await backend.create(SPEC)
        program = await sandbox.spawn(["sh", "-c", f"echo up; setsid sleep 4601.{mark} & sleep 4601.{mark}"])
        await program.receive()
    print("up", flush=True)
    await asyncio.sleep(3600)


def footprint() -> dict[str, int]:
    """What is held of the kernel's, by kind."""
    gc.collect()
    groups = Path("/sys/fs/cgroup").rglob("natgym-*")
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "children": len(children()),
        "processes": len(processes_with("natgym")) + len(processes_with("sleep\x00460")),
        "mounts": len(Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()),
        "control groups": sum(1 for path in groups if path.is_dir()),
        "network namespaces": len(network_namespaces()),
    }


async def settled(before: dict[str, int]) -> dict[str, int]:
    """The footprint, once it is no larger than that or after a while: kernels and daemons clean up a moment later."""
    until = time.monotonic() + WAIT_SECONDS
    now = footprint()
    while any(now[kind] > before[kind] for kind in before) and time.monotonic() < until:
        await asyncio.sleep(0.1)
        now = footprint()
    return now


def network_namespaces() -> set[str]:
    """Those that some process of the machine is in."""
    found = set[str]()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(path.readlink()))
        except OSError:
            continue
    return found


def resident_mib() -> float:
    """Memory of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def left(ours: float, unit: str) -> Row:
    """A row: nothing is to be left."""
    return {"ours": ours, "peer": None, "ratio": None, "bar": 0.0, "better": "lower", "unit": unit}


if __name__ == "__main__":
    main()
