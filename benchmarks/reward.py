"""The cost of scoring a NAT agent, against the same checks as cold processes.

    python -m benchmarks.reward [--repeats N] [--json] [--record]

Figures are CPU seconds (user and system), medians, of everything that a verdict costs: the children of the fork server,
the server itself, and the host's share. The right answers of a spec are known beforehand. `full` and `quick` have never
seen this configuration nor these tests; `again` has, as the second attempt of a group has.

The peer makes the same checks, in a process of its own for each, which imports NAT and exits: one for the agent's code
and its scenarios, one for the configuration, and one for each set of tools that the tests run on. What a peer's
process does after the import is taken from our own children, so the ratio compares like with like.
`--record` writes benchmarks/results/reward.json.
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from backends.local import LocalBackend
from benchmarks.record import machine, write_record
from core.settings import read_settings
from environments.nat_agent.conversation import TOOL_SPECS
from environments.nat_agent.effort import EFFORTS, Level
from environments.nat_agent.evaluator import NatEvaluator
from environments.nat_agent.expert import Expert
from environments.nat_agent.judge_tests import stock, worlds
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.requests import specs
from tool_call_parsers.hermes import HermesParser

Files = Mapping[str, str]
COLD = "import nat.plugins.langchain.register, nat.plugins.mcp.register, nat.tool.register, nat.llm.register, pytest"
PARALLEL = (1, 2, 4)
BAR_FULL, BAR_QUICK, BAR_BROKEN = 0.5, 0.15, 0.06
BAR_RATIO = 50


class Case(NamedTuple):
    """One thing that is measured."""

    name: str
    spec: AgentSpec
    files: Files
    level: Level
    forget: bool
    bar: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/reward.json")
    arguments = parser.parse_args()
    python = read_settings().nat_python
    cold = median(cold_seconds(python) for _ in range(3))
    seconds, throughput = asyncio.run(measure(python, arguments.repeats))
    rows = {case.name: row(case, ours, cold) for case, ours in seconds}
    rows |= {
        f"{slots} parallel, {Level.STANDARD.value}": {
            "ours": round(rate, 2), "peer": None, "ratio": None, "bar": None, "better": "higher", "unit": "evaluations/s",
        }
        for slots, rate in throughput.items()
    }  # fmt: skip
    for name, one in rows.items():
        print(
            f"{name:44} {one['ours']:8.3f} {one['unit']:14} bar {one['bar'] or '-':>5}  "
            f"peer {one['peer'] or '-':>6}  ratio {one['ratio'] or '-':>6}"
        )
    print(f"bar of the ratio: {BAR_RATIO}; one cold process: {cold:.2f} s CPU")
    if arguments.record:
        write_record("reward", {"machine": machine(), "rows": rows})
    if arguments.json:
        print(json.dumps(rows))


def row(case: Case, ours: float, cold: float) -> dict[str, float | str | None]:
    """One line of the table. The peer's time is one import for each process, and the checks themselves."""
    peer = cold_processes(case) * cold + ours
    return {
        "ours": round(ours, 4),
        "peer": round(peer, 2),
        "ratio": round(peer / ours, 1),
        "bar": case.bar,
        "better": "lower",
        "unit": "s CPU",
    }


def cold_processes(case: Case) -> int:
    """How many processes the checks of a case take where each imports NAT anew."""
    effort = EFFORTS[case.level]
    broken = "1/0\n" in case.files.values()
    tried = effort.mutants and not broken and case.forget
    tests = len(worlds(stock(case.spec.plan.custom_tools, case.spec.hidden, effort), apart=False)) if tried else 0
    return 1 + int(case.forget) + tests


def cold_seconds(python: Path) -> float:
    """CPU seconds of one process that imports what a check needs and does nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environ = {**os.environ, "NAT_TELEMETRY_ENABLED": "false", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([python, "-I", "-W", "ignore", "-c", COLD], env=environ, check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def measure(python: Path, repeats: int) -> tuple[list[tuple[Case, float]], dict[int, float]]:
    """Median CPU seconds by case, and evaluations a second by slots."""
    backend = LocalBackend()
    try:
        async with NatEvaluator(backend, python) as evaluator:
            found = [(case, await seconds(evaluator, case, repeats)) for case in cases()]
        return found, {slots: await rate(backend, python, slots, repeats) for slots in PARALLEL}
    finally:
        await backend.aclose()


def cases() -> list[Case]:
    """Whole and broken agents of two tools, with and without an MCP server."""
    found: list[Case] = []
    for servers, name in ((1, "two tools, one MCP server"), (0, "two tools")):
        spec = find(tools=2, servers=servers)
        files = deliverable(spec)
        broken = {**files, **{path: "1/0\n" for path in files if path.startswith("nat_tools/")}}
        found += [
            Case(f"{name}, full", spec, files, Level.FULL, True, BAR_FULL),
            Case(f"{name}, full, again", spec, files, Level.FULL, False, None),
            Case(f"{name}, standard", spec, files, Level.STANDARD, True, None),
            Case(f"{name}, quick", spec, files, Level.QUICK, True, None if servers else BAR_QUICK),
            Case(f"{name}, does not import", spec, broken, Level.FULL, True, None if servers else BAR_BROKEN),
            Case(
                f"{name}, does not import, bad YAML",
                spec, {**broken, "agent_config.yml": ": ["}, Level.FULL, True, None if servers else BAR_BROKEN,
            ),
        ]  # fmt: skip
    return found


async def seconds(evaluator: NatEvaluator, case: Case, repeats: int) -> float:
    """Median CPU seconds of scoring a case."""
    await evaluator.evaluate(case.spec, case.files, case.level)
    found = []
    for _ in range(repeats):
        if case.forget:
            evaluator.forget()
        before = spent(evaluator)
        await evaluator.evaluate(case.spec, case.files, case.level)
        found.append(spent(evaluator) - before)
    return median(found)


def spent(evaluator: NatEvaluator) -> float:
    """CPU seconds so far of this process, of all that runs below it, and of the children that have ended."""
    below = sum(on_cpu_seconds(pid) for pid in descendants(os.getpid()))
    return evaluator.server.cpu_seconds + time.process_time() + below


def descendants(pid: int) -> list[int]:
    """Every process that is alive below `pid`."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def on_cpu_seconds(pid: int) -> float:
    """What one process has used, all its threads together."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


async def rate(backend: LocalBackend, python: Path, slots: int, repeats: int) -> float:
    """Evaluations a second of whole groups, four attempts a task, that many deliverables at a time."""
    tasks = [spec for spec in itertools.islice(specs(7, held_out=False), repeats) for _ in range(4)]
    async with NatEvaluator(backend, python, parallel=slots) as evaluator:
        start = time.monotonic()
        await asyncio.gather(*(evaluator.evaluate(spec, deliverable(spec)) for spec in tasks))
        return len(tasks) / (time.monotonic() - start)


def find(*, tools: int, servers: int) -> AgentSpec:
    """The first spec of that size."""
    return next(
        spec
        for spec in specs(1, held_out=False)
        if len(spec.plan.custom_tools) == tools and len(spec.plan.mcp_servers) == servers
    )


def deliverable(spec: AgentSpec) -> dict[str, str]:
    """The files that the scripted expert leaves behind."""
    parsed = [HermesParser().parse(text, TOOL_SPECS) for text in Expert(spec).completions()]
    written = [json.loads(call.arguments) for one in parsed for call in one.calls if call.name == "write_file"]
    return {one["path"]: one["content"] for one in written}


if __name__ == "__main__":
    main()
