"""The rollout API beside `run-api` of atroposlib 0.4.0: the same groups, the same clients, one run.

    python -m benchmarks.rollout_api [--rounds N] [--peer-venv DIR] [--json] [--record]

Groups are 8 sequences of 2,048 tokens with logprobs. Ours is on the disk (SQLite, one fsync for each commit) before a
post is answered; run-api keeps its groups in memory. Both get the same load in turns, so that a machine with other
work on it slows both; figures in CPU seconds (all threads of the server) hold on a loaded machine, those in wall time
only as ratios. The client that posts is one for both and costs a small part of what a server does, which has a row.
`--peer-venv` is a virtual environment of run-api's own, which is made where it does not exist.
`--record` writes benchmarks/results/rollout_api.json.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple
from uuid import uuid4

import orjson

from benchmarks.record import machine, write_record
from benchmarks.rollout_api_load import post_all, request
from benchmarks.rollout_api_servers import (
    Server,
    atropos_group,
    native_group,
    our_server,
    peer_server,
    renamed,
    rows,
    send,
)
from core import wire

CONNECTIONS = 8
POSTS = 192  # of one round
IDLE = 0.002  # CPU seconds in 0.1 s
SMALL = 20_000
QUEUED = 200
JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack"}
TRAINER = {
    "wandb_group": "g", "wandb_project": "p", "max_token_len": 4096, "checkpoint_dir": "", "save_checkpoint_interval": 0,
    "starting_step": 0, "num_steps": 1_000_000,
}  # fmt: skip
Body = Callable[[int], bytes]


class Row(NamedTuple):
    """One line of the table; `bar` is on the ratio where `of_ratio`, else on ours."""

    ours: float
    peer: float | None
    bar: float
    better: str
    unit: str
    of_ratio: bool = False


class Posts(NamedTuple):
    """A load of posts: where to, and the body of each by its number."""

    server: Server
    path: str
    headers: dict[str, str]
    body: Body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-venv", type=Path, default=Path("build/run-api"), help="made if it is not there (build/run-api)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/rollout_api.json")
    arguments = parser.parse_args()
    found: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="natgym-rollout-api-") as folder:
        bench = Bench(Path(folder), arguments.peer_venv.absolute(), arguments.rounds)
        for name, row in bench.rows():
            found[name] = row
            print(line(name, row), flush=True)
    table = {name: as_json(row) for name, row in found.items()}
    if arguments.record:
        write_record("rollout_api", {"machine": machine(), "rows": table})
    if arguments.json:
        print(json.dumps(table))


def line(name: str, row: Row) -> str:
    """One line of the table for people."""
    one = as_json(row)
    bar = f"{row.bar:g} x" if row.of_ratio else f"{row.bar:g} {row.unit}"
    measured = one["ratio"] if row.of_ratio else row.ours
    holds = measured >= row.bar if row.better == "higher" else measured <= row.bar
    peer = "-" if row.peer is None else f"{row.peer:.2f}"
    ratio = "-" if one["ratio"] is None else f"{one['ratio']:.1f}"
    return (
        f"{name:58} {row.ours:9.2f} {row.unit:12} run-api {peer:>9}  ratio {ratio:>7}  bar {bar:12} {'' if holds else 'MISSED'}"
    )


def as_json(row: Row) -> dict[str, float | str | None]:
    """One line of the table for programs. The ratio is how many times better ours is."""
    ratio = None if row.peer is None else (row.ours / row.peer if row.better == "higher" else row.peer / max(row.ours, 1e-9))
    return {
        "ours": round(row.ours, 3),
        "peer": None if row.peer is None else round(row.peer, 3),
        "ratio": None if ratio is None else round(ratio, 2),
        "bar": row.bar,
        "better": row.better,
        "unit": row.unit,
    }


class Posted(NamedTuple):
    """What a load of posts gave: posts per second, posts per CPU second of the server, ms of the client's CPU for each."""

    per_second: float
    per_cpu_second: float
    client_ms: float


class Bench:
    """The measurements, one after the other, each with servers of its own."""

    def __init__(self, folder: Path, peer_venv: Path, rounds: int) -> None:
        self._folder, self._peer_venv, self._rounds = folder, peer_venv, rounds
        self._data = rows(8, 2048)
        self._native = native_group(self._data, "g" * 32)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Name and figures of every row."""
        yield from self._posts()
        yield from self._first_batch()
        for groups, identity_bar, gzip_bar in ((8, 25.0, 40.0), (64, 250.0, 400.0)):
            yield from self._batches(groups, identity_bar, gzip_bar)
        yield from self._memory()
        yield from self._waits()

    def _servers(self) -> tuple[Server, Server]:
        return our_server(self._folder), peer_server(self._peer_venv)

    def _posts(self) -> Iterator[tuple[str, Row]]:
        ours, peer = self._servers()
        with ours, peer:
            for server in (ours, peer):
                register(server, 1 << 30)
            open_run(ours, "native")
            loads = {
                "peer": self._atropos_posts(peer),
                "atropos": self._atropos_posts(ours),
                "native": Posts(ours, "/v1/groups?run=native", MSGPACK, self._native_body),
            }
            rounds = [{name: post(load) for name, load in loads.items()} for _ in range(self._rounds)]
        for name, title, bar in (("atropos", "Atropos JSON", 5.0), ("native", "/v1 msgpack", 15.0)):
            for measure, unit in ((0, "posts/s"), (1, "posts/CPU s")):
                mine, other = (median(one[key][measure] for one in rounds) for key in (name, "peer"))
                yield f"posts, {title}, {unit}", Row(mine, other, bar, "higher", unit, of_ratio=True)
        client = {key: median(one[key].client_ms for one in rounds) for key in ("atropos", "peer")}
        yield "CPU of the client that posts, Atropos JSON", Row(client["atropos"], client["peer"], 1.0, "lower", "ms")

    def _atropos_posts(self, server: Server) -> Posts:
        whole = atropos_group(self._data, 77.0)
        before, _, after = whole.partition(b"77.0")

        def body(number: int) -> bytes:
            return b"%b%.4f%b" % (before, number + uuid4().int % 9000 / 10_000, after)  # no two alike

        return Posts(server, "/scored_data", JSON, body)

    def _native_body(self, number: int) -> bytes:
        return renamed(self._native, "g" * 32, uuid4().hex)

    def _first_batch(self) -> Iterator[tuple[str, Row]]:
        def small(number: int) -> dict:
            return {"tokens": [[number % 1000, 2, 3]] * 4, "masks": [[-100, 2, 3]] * 4, "scores": [number, 1.0, 2.0, 3.0]}

        ours, peer = self._servers()
        seconds: dict[str, float] = {}
        with ours, peer:
            for name, server in (("ours", ours), ("peer", peer)):
                register(server, 64)
                for start in range(0, SMALL, 1000):
                    body = orjson.dumps([small(number) for number in range(start, start + 1000)])
                    server.ask("POST", "/scored_data_list", body, Content_Type="application/json")
                seconds[name] = 1000 * cpu_seconds(server, lambda server=server: server.ask("GET", "/batch"))
        yield (
            f"first batch, {SMALL} small groups queued, server CPU",
            Row(seconds["ours"], seconds["peer"], 50.0, "lower", "ms"),
        )
        yield from self._first_native_batch()

    def _first_native_batch(self) -> Iterator[tuple[str, Row]]:
        body = native_group(rows(2, 8), "s" * 32)
        with our_server(self._folder) as ours:
            open_run(ours, "native")
            post(Posts(ours, "/v1/groups", MSGPACK, lambda number: renamed(body, "s" * 32, uuid4().hex)), SMALL)
            kind = MSGPACK["Content-Type"]
            took = 1000 * cpu_seconds(ours, lambda: ours.ask("POST", "/v1/batches", take(16), Content_Type=kind))
        yield f"first batch, {SMALL} small groups queued, /v1, server CPU", Row(took, None, 50.0, "lower", "ms")

    def _batches(self, groups: int, identity_bar: float, gzip_bar: float) -> Iterator[tuple[str, Row]]:
        sequences = 8 * groups
        ours, peer = self._servers()
        with ours, peer:
            found: dict[tuple[str, str], float] = {}
            for server in (ours, peer):
                register(server, sequences)
            for encoding in ("identity", "gzip", "zstd"):
                rounds = [self._batch_cpu(ours, peer, groups, encoding) for _ in range(self._rounds)]
                for name, taken in zip(("ours", "peer"), zip(*rounds, strict=True), strict=True):
                    found[name, encoding] = 1000 * median(taken)
            open_run(ours, "native")
            native = [self._native_batch_cpu(ours, groups) for _ in range(self._rounds)]
        name = f"batch of {sequences} x 2k"
        for encoding, bar in (("identity", identity_bar), ("gzip", gzip_bar), ("zstd", gzip_bar)):
            peer_ms = found["peer", "identity" if encoding == "zstd" else encoding]  # run-api speaks no zstd
            yield f"{name}, {encoding}, server CPU", Row(found["ours", encoding], peer_ms, bar, "lower", "ms")
        yield f"{name}, /v1 as stored, server CPU", Row(1000 * median(native), None, identity_bar, "lower", "ms")

    def _batch_cpu(self, ours: Server, peer: Server, groups: int, encoding: str) -> list[float]:
        """CPU seconds of answering GET /batch, by ours and by the peer. Several are taken: the kernel counts in ticks."""
        repeats = max(1, 32 // groups)
        taken: list[float] = []
        for server in (ours, peer):
            post(self._atropos_posts(server), groups * repeats)
            settle(server)
            before = server.usage().cpu
            for _ in range(repeats):
                server.ask("GET", "/batch", Accept_Encoding=encoding)
            settle(server)
            taken.append((server.usage().cpu - before) / repeats)
        return taken

    def _native_batch_cpu(self, ours: Server, groups: int) -> float:
        repeats = max(1, 32 // groups)
        post(Posts(ours, "/v1/groups?run=native", MSGPACK, self._native_body), groups * repeats)
        settle(ours)
        before = ours.usage().cpu
        for _ in range(repeats):
            headers = {"Content_Type": MSGPACK["Content-Type"], "Accept": "application/zstd"}
            ours.ask("POST", "/v1/batches", take(groups, "native"), **headers)
        settle(ours)
        return (ours.usage().cpu - before) / repeats

    def _memory(self) -> Iterator[tuple[str, Row]]:
        ours, peer = self._servers()
        grown: dict[str, float] = {}
        with ours, peer:
            for name, server in (("ours", ours), ("peer", peer)):
                register(server, 1 << 30)
                post(self._atropos_posts(server), 16)
                before = server.usage().resident_mb
                post(self._atropos_posts(server), QUEUED)
                grown[name] = (server.usage().resident_mb - before) / QUEUED
        yield "resident memory per queued group", Row(grown["ours"], grown["peer"], 0.05, "lower", "MB")

    def _waits(self) -> Iterator[tuple[str, Row]]:
        ours, peer = self._servers()
        with ours, peer:
            longest: dict[str, list[float]] = {"ours": [], "peer": []}
            for server in (ours, peer):
                register(server, 512)
            for _ in range(self._rounds):
                for name, server in (("ours", ours), ("peer", peer)):
                    post(self._atropos_posts(server), 64)
                    longest[name].append(longest_wait(server))
        yield (
            "longest wait of a request behind a batch of 512",
            Row(1000 * median(longest["ours"]), 1000 * median(longest["peer"]), 50.0, "lower", "ms"),
        )


def register(server: Server, batch_size: int) -> None:
    """A trainer's registration in the Atropos dialect."""
    server.ask("POST", "/register", orjson.dumps({**TRAINER, "batch_size": batch_size}), Content_Type="application/json")


def open_run(server: Server, name: str) -> None:
    """A run of ours."""
    spec = {"id": name, "groups_per_batch": 8, "group_size": 8, "total_steps": 1_000_000}
    server.ask("POST", "/v1/run", orjson.dumps(spec), Content_Type="application/json")


def take(groups: int, run: str = "") -> bytes:
    """A request for a batch."""
    return wire.pack({"batch_id": uuid4().hex, "groups": groups, "policy_version": 0, "run": run})


def post(load: Posts, count: int = POSTS) -> Posted:
    """Post so many groups over 8 connections without a pause."""
    made = (request(load.path, load.headers, load.body(number)) for number in range(count))
    requests = list(made) if count <= POSTS else made
    settle(load.server)
    before = load.server.usage().cpu
    taken = post_all(load.server.port, requests, CONNECTIONS)
    settle(load.server)
    return Posted(count / taken.wall, count / (load.server.usage().cpu - before), 1000 * taken.client_cpu / count)


def settle(server: Server) -> None:
    """Return when the server does nothing any more but look at its timers, so that its figures are complete."""
    before = -1.0
    while (now := server.usage().cpu) - before > IDLE:
        before = now
        time.sleep(0.1)


def cpu_seconds(server: Server, work: Callable[[], object]) -> float:
    """CPU seconds that the server spends on some work."""
    settle(server)
    before = server.usage().cpu
    work()
    settle(server)
    return server.usage().cpu - before


def longest_wait(server: Server) -> float:
    """Seconds that the slowest of many small requests takes while a batch of 512 sequences is answered."""
    done = threading.Event()
    waits: list[float] = []
    connection = server.connect()

    def ask() -> None:
        while not done.is_set():
            waits.append(timed(lambda: send(connection, "GET", "/info", None, {})))

    asking = threading.Thread(target=ask)
    asking.start()
    server.ask("GET", "/batch", Accept_Encoding="identity")
    done.set()
    asking.join()
    return max(waits)


def timed(work: Callable[[], object]) -> float:
    """Wall seconds of some work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
