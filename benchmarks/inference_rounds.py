"""Rounds of the benchmark of inference: processes that are told to do one, and what one took."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx

from benchmarks.inference_parts import NEW_TOKENS, prompts

ROUND_SECONDS = 600


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

    def round(self, what: str = "") -> dict:
        """One round, of what it is told where it can do several things."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
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
