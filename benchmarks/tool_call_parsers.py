"""What it costs to find the calls of a completion, beside reading the same JSON with orjson.

    python -m benchmarks.tool_call_parsers [--json] [--fuzz 1000000 --fuzz-seconds 300]

A completion of 4 KB is prose, one call that writes a file of 3 KB, and a small call; the 50 KB one has a larger file. Times are
the best of many short rounds, so that a busy machine shows least. `peer` is orjson reading the arguments of both calls, for the
rows of growth the time of the smaller text, and for the rows "beside" the parser of that project, where it is installed.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.completions import ELEMENTS, JSON_BODIED, ONE_CALL, Calls, completion
from benchmarks.peer_parsers import PEERS
from core.types import JsonObject, ToolSpec
from tool_call_parsers.base import PARSERS, ToolCallParser

LINE = (
    'def area(width, height):\n    """Width times height, in \\"square\\" units."""\n    return width * height  # {checked}\n'
)
PROSE = "I will write the file first and then run the tests, because the failing one names a function that is missing. "
TOOLS = (
    ToolSpec(
        name="write_file",
        description="Write a file",
        parameters={
            "type": "object",
            "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
            "required": ["path", "content"],
        },
    ),
    ToolSpec(name="run", description="Run", parameters={"type": "object", "properties": {"command": {"type": "string"}}}),
)
JSON_BAR, XML_BAR, GROWTH_BAR = 30.0, 100.0, 16.0
ROUNDS, SHORTEST_ROUND_SECONDS = 60, 0.002


def calls(size: int) -> Calls:
    """A call that writes a file of about `size` characters, and a small one."""
    return [
        ("write_file", {"path": "area.py", "content": (LINE * (size // len(LINE) + 1))[:size]}),
        ("run", {"command": "pytest -q"}),
    ]


BARS = dict.fromkeys(JSON_BODIED, JSON_BAR) | dict.fromkeys(ELEMENTS, XML_BAR)
"""Microseconds for 4 KB, by format."""


def microseconds(work: Callable[[], object]) -> float:
    """The time of one call of `work`: the best of many rounds."""
    work()
    started = time.perf_counter()
    work()
    times = max(1, int(SHORTEST_ROUND_SECONDS / max(time.perf_counter() - started, 1e-7)))
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(times):
            work()
        best = min(best, (time.perf_counter() - started) / times)
    return best * 1e6


def row(ours: float, peer: float, bar: float, unit: str = "us") -> JsonObject:
    """One measured row: `better` where `ours` keeps within `bar`."""
    return {
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "ratio": round(ours / peer, 2),
        "bar": bar,
        "better": "lower",
        "unit": unit,
    }


def measure() -> dict[str, JsonObject]:
    """All rows."""
    orjson = import_module("orjson") if find_spec("orjson") else json
    rows: dict[str, JsonObject] = {}
    for name, bar in BARS.items():
        parser = PARSERS.load(name)()
        small, large = calls(3000), calls(44_000)
        floors = [[json.dumps(given).encode() for _, given in found] for found in (small, large)]
        texts = [completion(name, PROSE * 8, found) for found in (small, large)]
        _must_find(parser, texts, 1 if name in ONE_CALL else 2)
        ours = [microseconds(lambda text=text, parser=parser: parser.parse(text)) for text in texts]
        peers = [microseconds(lambda floor=floor: [orjson.loads(one) for one in floor]) for floor in floors]
        checked = microseconds(lambda text=texts[0], parser=parser: parser.parse(text, TOOLS))
        rows[f"{name} 4 KB"] = row(ours[0], peers[0], bar)
        rows[f"{name} 4 KB, checked against the tools"] = row(checked, peers[0], bar)
        rows[f"{name} 50 KB"] = row(ours[1], peers[1], bar * 12)
        rows |= {f"{name} 4 KB, beside {peer}": one for peer, one in beside(name, parser, texts[0]).items()}
    rows |= {f"hostile: {name}, 8 times the text": grown for name, grown in hostile().items()}
    return rows


def beside(name: str, parser: ToolCallParser, text: str) -> dict[str, JsonObject]:
    """Our time beside that of each other project's parser of that format which is installed and finds the calls.

    In turns, so that what else runs on the machine slows both. The bar is the other's time.
    """
    rows: dict[str, JsonObject] = {}
    count = len(parser.parse(text, TOOLS).calls)
    for peer, load in PEERS.items():
        theirs = load(name, TOOLS)
        if theirs is None or theirs(text) != count:
            continue
        ours_best = theirs_best = float("inf")
        for _ in range(3):
            ours_best = min(ours_best, microseconds(lambda: parser.parse(text, TOOLS)))
            theirs_best = min(theirs_best, microseconds(lambda theirs=theirs: theirs(text)))
        rows[peer] = row(ours_best, theirs_best, round(theirs_best, 2))
    return rows


def hostile() -> dict[str, JsonObject]:
    """How the time of hostile texts grows when they are 8 times as long."""
    pieces = {
        "blanks": "<tool_call>" + " " * 100_000,
        "open braces": "<tool_call>" + "{" * 10_000,
        "open blocks": '<tool_call>{"a": ["' * 4000,
    }
    rows: dict[str, JsonObject] = {}
    for name, text in pieces.items():
        parser = PARSERS.load("hermes")()
        short = text[: len(text) // 8]
        ours, peer = (microseconds(lambda text=one, parser=parser: parser.parse(text)) for one in (text, short))
        rows[name] = row(ours, peer, GROWTH_BAR * peer)
    return rows


def _must_find(parser: ToolCallParser, texts: list[str], count: int) -> None:
    for text in texts:
        if len(parser.parse(text, TOOLS).calls) != count:
            raise SystemExit(f"{parser.name}: not all calls of the benchmark were found")


class Fuzzed(NamedTuple):
    """How many random texts were parsed, and the CPU seconds of all and of the slowest."""

    texts: int
    seconds: float
    slowest: float


def fuzz(count: int, limit_seconds: float, seed: int) -> Fuzzed:
    """Parse `count` random texts of each format's own pieces, or as many as the limit allows. Raises what parsers raise."""
    chance = random.Random(seed)
    pieces = [*'{}[]()",:=\\\n\t aé0-', "null", '"name"', '"arguments"', "<think>", "</think>", "f(x=1)"]
    parsers = [PARSERS.load(name)() for name in PARSERS.table if name != "response_template"]
    own = {parser.name: [*getattr(parser, "openers", ()), *getattr(parser, "closers", ())] for parser in parsers}
    started = ended = time.process_time()
    slowest, done = 0.0, 0
    while done < count and ended - started < limit_seconds:
        parser = parsers[done % len(parsers)]
        text = "".join(chance.choices(pieces + own[parser.name] * 3, k=chance.randrange(24)))
        begun = time.process_time()
        parser.parse(text, TOOLS, repair=done % 3 == 0)
        ended = time.process_time()
        slowest, done = max(slowest, ended - begun), done + 1
    return Fuzzed(done, ended - started, slowest)


def main() -> None:
    """Print the rows; with `--json` as one line, last."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--json", action="store_true", help="print the rows as JSON, as the last line")
    reader.add_argument("--fuzz", type=int, default=0, metavar="COUNT", help="first parse so many random texts (0)")
    reader.add_argument("--fuzz-seconds", type=float, default=300, metavar="N", help="for so many CPU seconds at most (300)")
    reader.add_argument("--seed", type=int, default=0, help="of the random texts (0)")
    options = reader.parse_args()
    if options.fuzz:
        found = fuzz(options.fuzz, options.fuzz_seconds, options.seed)
        spent = f"{found.seconds:.0f} CPU seconds, the slowest {found.slowest * 1000:.0f} ms"
        print(f"{found.texts} random texts: none raised, {spent}", file=sys.stderr)
    rows = measure()
    for name, one in rows.items():
        print(f"{name:46} {one['ours']:>10} {one['unit']}   peer {one['peer']:>9}   x{one['ratio']:<8} bar {one['bar']:g}")
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
