"""What it costs to find the calls of a completion, beside reading the same JSON with orjson.

    python -m benchmarks.tool_call_parsers [--json] [--fuzz 1000000 --fuzz-seconds 300]

A completion of 4 KB is prose, one call that writes a file of 3 KB, and a small call; the 50 KB one has a larger file. Times are
the best of many short rounds, so that a busy machine shows least. `peer` is orjson reading the arguments of both calls, and
for the rows of growth the time of the smaller text.
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


def calls(size: int) -> list[tuple[str, JsonObject]]:
    """A call that writes a file of about `size` characters, and a small one."""
    return [
        ("write_file", {"path": "area.py", "content": (LINE * (size // len(LINE) + 1))[:size]}),
        ("run", {"command": "pytest -q"}),
    ]


def hermes(found: list[tuple[str, JsonObject]]) -> str:
    """As Hermes, Qwen2.5 and Qwen3 write."""
    return "\n".join(f"<tool_call>\n{json.dumps({'name': name, 'arguments': given})}\n</tool_call>" for name, given in found)


def mistral(found: list[tuple[str, JsonObject]]) -> str:
    """As Mistral's models from v13 write."""
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(given)}" for name, given in found)


def llama(found: list[tuple[str, JsonObject]]) -> str:
    """As Llama 3 writes."""
    return "; ".join(json.dumps({"name": name, "parameters": given}) for name, given in found)


def granite(found: list[tuple[str, JsonObject]]) -> str:
    """As Granite 3 writes."""
    return "<|tool_call|>" + json.dumps([{"name": name, "arguments": given} for name, given in found])


def kimi(found: list[tuple[str, JsonObject]]) -> str:
    """As Kimi K2 writes."""
    blocks = (
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{json.dumps(given)}<|tool_call_end|>"
        for index, (name, given) in enumerate(found)
    )
    return f"<|tool_calls_section_begin|>{''.join(blocks)}<|tool_calls_section_end|>"


def qwen3_coder(found: list[tuple[str, JsonObject]]) -> str:
    """As Qwen3-Coder writes."""
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in given.items())
        + "</function>\n</tool_call>"
        for name, given in found
    )


def glm47(found: list[tuple[str, JsonObject]]) -> str:
    """As GLM-4.7 writes."""
    return "".join(
        f"<tool_call>{name}"
        + "".join(f"<arg_key>{key}</arg_key><arg_value>{value}</arg_value>" for key, value in given.items())
        + "</tool_call>"
        for name, given in found
    )


WRITERS: dict[str, tuple[Callable[[list[tuple[str, JsonObject]]], str], float]] = {
    "hermes": (hermes, JSON_BAR),
    "mistral": (mistral, JSON_BAR),
    "llama3_json": (llama, JSON_BAR),
    "granite": (granite, JSON_BAR),
    "kimi_k2": (kimi, JSON_BAR),
    "qwen3_coder": (qwen3_coder, XML_BAR),
    "glm47": (glm47, XML_BAR),
}


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
    for name, (writer, bar) in WRITERS.items():
        parser = PARSERS.load(name)()
        small, large = calls(3000), calls(44_000)
        floors = [[json.dumps(given).encode() for _, given in found] for found in (small, large)]
        texts = [PROSE * 8 + "\n" + writer(found) for found in (small, large)]
        _must_find(parser, texts, 2)
        ours = [microseconds(lambda text=text, parser=parser: parser.parse(text)) for text in texts]
        peers = [microseconds(lambda floor=floor: [orjson.loads(one) for one in floor]) for floor in floors]
        checked = microseconds(lambda text=texts[0], parser=parser: parser.parse(text, TOOLS))
        rows[f"{name} 4 KB"] = row(ours[0], peers[0], bar)
        rows[f"{name} 4 KB, checked against the tools"] = row(checked, peers[0], bar)
        rows[f"{name} 50 KB"] = row(ours[1], peers[1], bar * 12)
    rows |= {f"hostile: {name}, 8 times the text": grown for name, grown in hostile().items()}
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
        if len(parser.parse(text).calls) != count:
            raise SystemExit(f"{parser.name}: not all calls of the benchmark were found")


class Fuzzed(NamedTuple):
    """How many random texts were parsed, and the CPU seconds of all and of the slowest."""

    count: int
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
        print(f"{found.count} random texts: none raised, {spent}", file=sys.stderr)
    rows = measure()
    for name, one in rows.items():
        print(f"{name:44} {one['ours']:>10} {one['unit']}   orjson {one['peer']:>9}   x{one['ratio']:<8} bar {one['bar']:g}")
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
