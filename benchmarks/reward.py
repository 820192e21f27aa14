"""The cost of scoring a NAT agent, against the same checks as cold processes.

    python -m benchmarks.reward [--repeats N] [--json] [--record]

Figures are CPU seconds (user and system) of everything that runs in the sandbox, medians; the right answers of a spec
are known beforehand. `first` has never seen this configuration nor these tests, `again` has, as the second attempt of a
group has. The peer imports NAT anew for each check: for the agent's code, for the configuration, and for each set of
tools that the tests run on.
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

from backends.local import LocalBackend
from benchmarks.record import machine, write_record
from core.settings import read_settings
from environments.nat_agent.evaluator import NatEvaluator
from environments.nat_agent.expert import Expert
from environments.nat_agent.plan import AgentSpec
from environments.nat_agent.requests import specs
from tool_call_parsers.hermes import HermesParser

Files = Mapping[str, str]
COLD = "import nat.plugins.langchain.register, nat.plugins.mcp.register, nat.tool.register, nat.llm.register, pytest"
COLD_PROCESSES = 5  # own, configuration, reference, two sets of mutants
PARALLEL = (1, 2, 4)
BAR_SECONDS = 0.25
BAR_RATIO = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/reward.json")
    arguments = parser.parse_args()
    python = read_settings().nat_python
    peer = COLD_PROCESSES * median(cold_seconds(python) for _ in range(3))
    figures, throughput = asyncio.run(measure(python, arguments.repeats))
    rows = {
        name: {
            "ours": round(ours, 4),
            "peer": round(peer, 2),
            "ratio": round(peer / ours, 1),
            **bar,
            "better": "lower",
            "unit": "s CPU",
        }
        for name, (ours, bar) in figures.items()
    }
    rows |= {
        f"{slots} parallel": {
            "ours": round(rate, 2),
            "peer": None,
            "ratio": None,
            "bar": None,
            "better": "higher",
            "unit": "evaluations/s",
        }
        for slots, rate in throughput.items()
    }
    for name, row in rows.items():
        print(f"{name:42} {row['ours']:9.3f} {row['unit']:14} peer {row['peer'] or '-':>6}  ratio {row['ratio'] or '-':>6}")
    if arguments.record:
        write_record("reward", {"machine": machine(), "rows": rows})
    if arguments.json:
        print(json.dumps(rows))


def cold_seconds(python: Path) -> float:
    """CPU seconds of one process that imports what a check needs and does nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environ = {**os.environ, "NAT_TELEMETRY_ENABLED": "false", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([python, "-I", "-W", "ignore", "-c", COLD], env=environ, check=True, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def measure(python: Path, repeats: int) -> tuple[dict[str, tuple[float, dict]], dict[int, float]]:
    """Median CPU seconds by kind of deliverable, and evaluations a second by slots."""
    backend = LocalBackend()
    figures: dict[str, tuple[float, dict]] = {}
    try:
        async with NatEvaluator(backend, python) as evaluator:
            for servers in (0, 1):
                spec = find(tools=2, servers=servers)
                files = deliverable(spec)
                name = f"two tools, {servers} MCP servers"
                bar = {"bar": BAR_SECONDS} if not servers else {"bar": None}
                figures[f"{name}, first"] = await seconds(evaluator, spec, files, repeats, forget=True), bar
                figures[f"{name}, again"] = await seconds(evaluator, spec, files, repeats, forget=False), bar
                broken = {**files, **{path: "1/0\n" for path in files if path.startswith("nat_tools/")}}
                figures[f"{name}, tools do not import"] = (
                    await seconds(evaluator, spec, broken, repeats, forget=False),
                    {"bar": None},
                )
        return figures, {slots: await rate(backend, python, slots, repeats) for slots in PARALLEL}
    finally:
        await backend.aclose()


async def seconds(evaluator: NatEvaluator, spec: AgentSpec, files: Files, repeats: int, *, forget: bool) -> float:
    """Median CPU seconds of scoring these files."""
    await evaluator.evaluate(spec, files)
    found = []
    for _ in range(repeats):
        if forget:
            evaluator.forget()
        before = evaluator.server.cpu_seconds
        await evaluator.evaluate(spec, files)
        found.append(evaluator.server.cpu_seconds - before)
    return median(found)


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
    calls = [
        call for text in Expert(spec).completions() for call in HermesParser().parse(text).calls if call.name == "write_file"
    ]
    written = [json.loads(call.arguments) for call in calls]
    return {one["path"]: one["content"] for one in written}


if __name__ == "__main__":
    main()
