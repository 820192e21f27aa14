"""Tokens per second of the endpoint, and how soon new weights are sampled from.

    python -m benchmarks.inference [--repeats N] [--only ROWS] [--device cuda] [--json] [--record]

A random Qwen3 of 5.8 million parameters, 32 prompts of 64 tokens, 128 new tokens each, ids and logprobs returned over
HTTP by /generate. The peer is `generate` of transformers in its own process, which returns neither logprobs nor takes a
prompt while it decodes; both use one thread. Ours and the peer's rounds alternate. Rows of tokens are tokens per CPU
second of the whole server process, its HTTP included, so that they hold on a busy machine too; the load average is printed.

`publish` is the time from the end of an optimiser's step to the first token that the new weights sampled, with 32
completions in flight, none of them ended by it; the anchor is a Tinker-compatible server's (skyrl 0.4.0, 0.20 s, measured
on another day). `busy` is tokens per second beside as many busy processes as there are cores: two threads as they are,
and two threads that the trial at the start allowed or not.

With `--device cuda` a model of 0.5 billion parameters at 1, 32 and 256 completions against transformers' continuous
batching. `--record` writes benchmarks/results/inference.json.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx

from benchmarks.inference_parts import NEW_TOKENS, prompts, write_model
from benchmarks.record import write_rows

BATCH = 32
BAR_FLOAT32, BAR_BFLOAT16, BAR_HTTP, BAR_PUBLISH, BAR_BUSY = 1.1, 1.7, 0.9, 0.1, 1.0
ANCHOR_PUBLISH_SECONDS = 0.20
READY_SECONDS, ROUND_SECONDS = 300, 600


class Round(NamedTuple):
    """What one round of all prompts took."""

    wall: float
    cpu: float | None
    tokens: int


class Part:
    """A process of benchmarks.inference_parts."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.ready = self.line()

    def line(self) -> dict:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a part of the benchmark ended with {self.process.wait()}")
        return json.loads(line)

    def round(self) -> dict:
        """One round of what it does."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()

    def cpu_seconds(self) -> float:
        """What it has used so far, all its threads together."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def part(name: str, **options: object) -> Iterator[Part]:
    """The part, ended on the way out."""
    flags = [f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}") for key, value in options.items()]
    environ = {**os.environ, "OMP_NUM_THREADS": str(options.get("threads", 1)), "TRANSFORMERS_VERBOSITY": "error"}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.inference_parts", name, *flags],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ,
    )  # fmt: skip
    try:
        yield Part(process)
    finally:
        process.kill()
        process.wait()


async def over_http(server: Part, batch: int, seed: int) -> Round:
    """All prompts at once, each a request of its own."""
    params = {"max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.ready["url"], timeout=ROUND_SECONDS, limits=limits, trust_env=False) as client:
        wall, cpu = time.perf_counter(), server.cpu_seconds()
        bodies = [{"input_ids": ids, "sampling_params": params, "return_logprob": True} for ids in prompts(batch, seed)]
        answers = await asyncio.gather(*(client.post("/generate", json=body) for body in bodies))
        took = Round(time.perf_counter() - wall, server.cpu_seconds() - cpu, batch * NEW_TOKENS)
    for answer in answers:
        meta = answer.raise_for_status().json()["meta_info"]
        assert len(meta["output_token_logprobs"]) == NEW_TOKENS
    return took


def decode_seconds(server: Part) -> float:
    """Seconds that the decode thread has spent in the model, by the server's own account."""
    lines = httpx.get(f"{server.ready['url']}/metrics", trust_env=False).text.splitlines()
    found = [float(line.split()[1]) for line in lines if 'phase="prefill"' in line or 'phase="decode"' in line]
    return sum(found)


def rollout_rows(model: Path, repeats: int) -> dict[str, dict]:
    """float32 and bfloat16 over HTTP beside transformers' generate in float32, all on one thread."""
    ours: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    theirs: list[float] = []
    http: list[float] = []
    with ExitStack() as stack:
        servers = {name: stack.enter_context(part("serve", model=model, dtype=name)) for name in ours}
        peer = stack.enter_context(part("generate", model=model))
        for server in servers.values():
            asyncio.run(over_http(server, BATCH, seed=0))
        for seed in range(1, repeats + 1):
            for name, server in servers.items():
                took = asyncio.run(over_http(server, BATCH, seed))
                assert took.cpu is not None
                ours[name].append(took.tokens / took.cpu)
            told = peer.round()
            theirs.append(told["tokens"] / told["cpu"])
        http += decode_shares(servers["float32"], repeats)
    rows = {
        f"rollout {name}, 32 at once, over HTTP": row(ours[name], theirs, bar, "tokens / CPU s")
        for name, bar in (("float32", BAR_FLOAT32), ("bfloat16", BAR_BFLOAT16))
    }
    return rows | {"share of the server's CPU that decodes": row(http, None, BAR_HTTP, "share")}


def decode_shares(server: Part, repeats: int) -> list[float]:
    """Of the CPU seconds of a round, those of the decode thread: the rest is HTTP and JSON."""
    shares = []
    for seed in range(repeats):
        before = thread_seconds(server)
        asyncio.run(over_http(server, BATCH, 100 + seed))
        spent = {thread: seconds - before.get(thread, 0.0) for thread, seconds in thread_seconds(server).items()}
        shares.append(max(spent.values()) / sum(spent.values()))
    return shares


def thread_seconds(server: Part) -> dict[str, float]:
    """CPU seconds so far by thread."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks}


def publish_rows(model: Path, repeats: int) -> dict[str, dict]:
    """Seconds until the new weights sample, and the same in decode steps."""
    with part("publish", model=model, batch=BATCH) as publisher:
        publisher.round()
        told = [publisher.round() for _ in range(repeats)]
    if not all(one["whole"] for one in told):
        raise RuntimeError("a publication ended a completion")
    seconds, steps = [one["seconds"] for one in told], [one["seconds"] / one["step_seconds"] for one in told]
    anchor = {**row(seconds, [ANCHOR_PUBLISH_SECONDS], BAR_PUBLISH, "s"), "better": "lower"}
    return {"publish, 32 in flight": anchor, "publish in decode steps": {**row(steps, None, 2.0, "steps"), "better": "lower"}}


def busy_rows(model: Path, repeats: int) -> dict[str, dict]:
    """Two threads beside busy cores, with the trial at the start and without."""
    walls: dict[bool, list[float]] = {True: [], False: []}
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            stack.enter_context(part("busy"))
        probed = stack.enter_context(part("serve", model=model, threads=2))
        forced = stack.enter_context(part("serve", model=model, threads=2, force_threads=True))
        for seed in range(repeats):
            for server, is_forced in ((probed, False), (forced, True)):
                took = asyncio.run(over_http(server, 8, seed))
                walls[is_forced].append(took.tokens / took.wall)
    return {"busy cores, 8 at once, 2 threads asked for": row(walls[False], walls[True], BAR_BUSY, "tokens / s")}


def gpu_rows(model: Path, repeats: int, device: str) -> dict[str, dict]:
    """Tokens per second of wall by how many complete at once, beside transformers' continuous batching."""
    rows: dict[str, dict] = {}
    for batch in (1, 32, 256):
        options = {"model": model, "batch": batch, "device": device, "dtype": "bfloat16"}
        with part("serve", **options) as server:
            took = [asyncio.run(over_http(server, batch, seed)) for seed in range(repeats + 1)][1:]
        with part("continuous", **options) as peer:
            told = [peer.round() for _ in range(repeats)]
        ours, theirs = [one.tokens / one.wall for one in took], [one["tokens"] / one["wall"] for one in told]
        rows[f"0.5B bfloat16 on {device}, {batch} at once"] = row(ours, theirs, None, "tokens / s")
    return rows


def measured(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, dict]]:
    """The rows that were asked for, as they are ready."""
    if arguments.device != "cpu":
        yield gpu_rows(write_model(folder, "0.5B"), arguments.repeats, arguments.device)
        return
    model, known = write_model(folder, "6M"), {"rollout": rollout_rows, "publish": publish_rows, "busy": busy_rows}
    for name in arguments.only or known:
        yield known[name](model, arguments.repeats)


def show(rows: dict[str, dict]) -> None:
    """A line a row."""
    for name, one in rows.items():
        print(
            f"{name:44} {one['ours']:10.4g} {one['unit']:15} peer {one['peer'] or '-':>9}  "
            f"ratio {one['ratio'] or '-':>6}  bar {one['bar'] or '-':>5}  load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def row(ours: Sequence[float], theirs: Sequence[float] | None, bar: float | None, unit: str) -> dict:
    """One line of the table; the bar is of the ratio where there is a peer, else of our figure."""
    mine, peer = median(ours), median(theirs) if theirs else None
    ratio = None if peer is None else round(mine / peer, 3)
    return {
        "ours": round(mine, 4),
        "peer": peer and round(peer, 4),
        "ratio": ratio,
        "bar": bar,
        "better": "higher",
        "unit": unit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=["rollout", "publish", "busy"], help="these rows of the CPU's")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/inference.json")
    arguments = parser.parse_args()
    rows: dict[str, dict] = {}
    with TemporaryDirectory() as folder:
        for made in measured(arguments, Path(folder)):
            rows |= made
            show(made)
    if arguments.record:
        write_rows("inference", rows)
    if arguments.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
