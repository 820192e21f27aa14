"""Tokens per second of the endpoint, and how soon new weights are sampled from.

    python -m benchmarks.inference [--skyrl] [--repeats N] [--only ROWS] [--json] [--record]

A random Qwen3 of 5.8 million parameters, 32 prompts of 64 tokens, 128 new tokens each, ids and logprobs returned over
HTTP by /generate. The peer is `generate` of transformers in its own process, which returns neither logprobs nor takes a
prompt while it decodes; both use one thread. Ours and the peer's rounds alternate. Rows of tokens are tokens per CPU
second of the whole server process, its HTTP included, so that they hold on a busy machine too; the load average is printed.

`publish` is the time from the end of an optimiser's step to the first token that the new weights sampled, with 32
completions in flight, none of them ended by it. `busy` is tokens per second beside as many busy processes as there are
cores: two threads as they are, and two threads that the trial at the start allowed or not.

`--skyrl` adds the rows beside a Tinker-compatible server, skyrl 0.4.0 with JAX, which `make tinker-server` installs: the
same model with a LoRA adapter of rank 8, as it cannot be without one, asked by the tinker SDK. What it compiles, with all
optimisations, it has compiled before. Both servers may use two cores. Its publication is timed with nothing else in
flight there, which is the faster for it: it samples batch by batch, and a publication waits for the one in progress.

`--record` writes benchmarks/results/inference.json; benchmarks/gpu.py measures a GPU.
"""

import argparse
import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.inference_parts import write_model
from benchmarks.inference_rounds import Part, over_http, part, row
from benchmarks.record import end_run
from benchmarks.skyrl_server import installed, skyrl_server

BATCH = 32
BAR_FLOAT32, BAR_BFLOAT16, BAR_HTTP, BAR_STEPS, BAR_BUSY = 1.1, 1.7, 0.9, 2.0, 1.0
BAR_SKYRL, BAR_PUBLISH = 1.25, 0.1


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
        told = [published(publisher) for _ in range(repeats)]
    lasts = [one["last_seconds"] for one in told]
    steps = [one["seconds"] / one["step_seconds"] for one in told]
    figures = {
        "publish in decode steps": row(steps, None, BAR_STEPS, "steps"),
        "publish until the last of 32 has a token of it": row(lasts, None, None, "s"),
    }
    return {name: {**one, "better": "lower"} for name, one in figures.items()}


def published(publisher: Part) -> dict:
    """One publication. Raises RuntimeError where it ended a completion."""
    told = publisher.round()
    if not told["whole"]:
        raise RuntimeError("a publication ended a completion")
    return told


def skyrl_rows(model: Path, repeats: int) -> dict[str, dict]:
    """Tokens and publications beside a Tinker-compatible server; both use two threads to decode."""
    if not installed():
        print("skyrl: no rows, no such server is installed: make tinker-server", flush=True)
        return {}
    ours: dict[str, list[float]] = {"wall": [], "cpu": [], "publish": []}
    theirs: dict[str, list[float]] = {"wall": [], "cpu": [], "publish": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        # first, because it tries its threads when it starts, and the other is busy for a while when that does
        server = stack.enter_context(part("serve", model=model, threads=2))
        asyncio.run(over_http(server, BATCH, seed=0))
        there = stack.enter_context(skyrl_server(model, folder, max_lora_adapters=8, max_lora_rank=8))
        client = stack.enter_context(part("skyrl", model=model, url=there.url, batch=BATCH))
        publisher = stack.enter_context(part("publish", model=model, batch=BATCH))
        publisher.round()
        for seed in range(1, repeats + 1):
            took, before = asyncio.run(over_http(server, BATCH, seed)), there.cpu_seconds()
            told = client.round("rollout")
            assert took.cpu is not None
            ours["wall"].append(took.tokens / took.wall)
            ours["cpu"].append(took.tokens / took.cpu)
            theirs["wall"].append(told["tokens"] / told["wall"])
            theirs["cpu"].append(told["tokens"] / (there.cpu_seconds() - before))
            ours["publish"].append(published(publisher)["seconds"])
            theirs["publish"].append(client.round("publish")["seconds"])
    return {
        "rollout beside skyrl, two cores": row(ours["wall"], theirs["wall"], BAR_SKYRL, "tokens / s"),
        "rollout beside skyrl, by CPU": row(ours["cpu"], theirs["cpu"], None, "tokens / CPU s"),
        "publish beside skyrl": {**row(ours["publish"], theirs["publish"], BAR_PUBLISH, "s"), "better": "lower"},
    }


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


def measured(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, dict]]:
    """The rows that were asked for, as they are ready."""
    known = {"rollout": rollout_rows, "publish": publish_rows, "busy": busy_rows, "skyrl": skyrl_rows}
    model = write_model(folder, "6M")
    for name in arguments.only or [name for name in known if name != "skyrl" or arguments.skyrl]:
        yield known[name](model, arguments.repeats)


def show(rows: dict[str, dict]) -> None:
    """A line a row."""
    for name, one in rows.items():
        print(
            f"{name:44} {one['ours']:10.4g} {one['unit']:15} peer {one['peer'] or '-':>9}  "
            f"ratio {one['ratio'] or '-':>6}  bar {one['bar'] or '-':>5}  load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=["rollout", "publish", "busy", "skyrl"], help="these rows of the CPU's")
    parser.add_argument("--skyrl", action="store_true", help="the rows beside skyrl too: make tinker-server")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/inference.json")
    arguments = parser.parse_args()
    rows: dict[str, dict] = {}
    with TemporaryDirectory() as folder:
        for made in measured(arguments, Path(folder)):
            rows |= made
            show(made)
    end_run("inference", rows, arguments)


if __name__ == "__main__":
    main()
