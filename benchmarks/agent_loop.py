"""What the agent loop costs: 1,000 episodes at once in one process, against a server that answers at once.

    python -m benchmarks.agent_loop [--episodes N] [--turns N] [--json] [--record]

The server is a process of its own on loopback, so the CPU seconds are those of the loop alone: rendering, HTTP, parsing,
tools, records. Sandboxes are in memory. `phase 1` speaks chat completions with native tool calls, `phase 2` token ids
and logprobs with our renderer and parser. In the last turn all episodes wait for each other; the resident memory is read
there, with everything that they said in it. CPU seconds hold on a loaded machine; the load average is shown.
`--record` writes benchmarks/results/agent_loop.json.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from backends.base import Capabilities, SandboxSpec, Tier
from benchmarks.record import machine, write_record
from core.types import JsonObject, Message, Reward, Role, Task, Turn
from environments.agent_loop import EpisodeLimits
from environments.base import Environment, Split, Tool
from environments.episode import Arena
from environments.group import run_group
from environments.policy import PolicyConfig, PolicyKind, open_policy
from environments.tool_context import ToolContext
from environments.tools.calls import as_call
from environments.tools.declare import tool
from tool_call_parsers.rendering import Renderer

TOKENIZER = Path(__file__).parents[1] / "trainer" / "policies" / "nat_small"
BAR_MILLISECONDS, BAR_MEGABYTES = 2.0, 1.0
WARM_UP = 20
RULES = "Work in small steps. Read before you write, and write down what you found before you go on. " * 8
LINE = "A line of the file that is neither short nor long, as lines of a program are.\n"


class Sandbox:
    """A place without anything in it: what a sandbox costs is measured by benchmarks/backends.py."""

    id = "nothing"

    async def files(self, *, max_files: int = 1000) -> tuple[str, ...]:
        return ()

    async def destroy(self) -> None:
        """Nothing is open."""


class NoBackend:
    """Makes places without anything in them."""

    name = "none"

    async def probe(self) -> Capabilities:
        return Capabilities(backend=self.name, tier=Tier.UNSAFE, detail="in memory")

    async def create(self, spec: SandboxSpec, **asked: object) -> Sandbox:
        return Sandbox()

    async def reap(self, **asked: object) -> tuple[str, ...]:
        return ()

    async def aclose(self) -> None:
        """Nothing is open."""


class Reading(Environment):
    """Read lines of a file turn by turn, then hand in; nobody hands in before everybody could."""

    name = "reading"

    def __init__(self, episodes: int, turns: int) -> None:
        self.max_turns, self._all_there = turns, asyncio.Barrier(episodes)
        self.resident = 0
        self._tools = (tool(read_lines), tool(write_note), tool(self.hand_in, ends_episode=True))

    async def hand_in(self, context: ToolContext) -> str:
        """Hand the work in."""
        if await self._all_there.wait() == 0:
            self.resident = resident_bytes()
        return "handed in"

    def tasks(self, split: Split) -> Sequence[Task]:
        messages = (Message(role=Role.SYSTEM, content=RULES), Message(role=Role.USER, content="What is in the file?"))
        return [Task(id="read", environment=self.name, messages=messages, tools=tuple(one.spec for one in self._tools))]

    def tools(self, task: Task) -> Sequence[Tool]:
        return self._tools

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        return Reward.of(turns=float(len(turns) == self.max_turns))

    def gold(self, task: Task) -> Sequence[str]:
        return (*[as_call("read_lines", path="notes/plan.txt", first=10, last=15)] * (self.max_turns - 1), as_call("hand_in"))


async def read_lines(context: ToolContext, path: str, first: int, last: int) -> str:
    """Read lines of a text file.

    path: where it lies
    first: the first line, counted from 1
    last: the last line
    """
    return LINE * (last - first + 1)


async def write_note(context: ToolContext, text: str) -> str:
    """Write something down.

    text: what to remember
    """
    return "written"


class Cost(NamedTuple):
    """What one phase cost."""

    milliseconds_per_turn: float
    megabytes_per_episode: float
    turns_per_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/agent_loop.json")
    parser.add_argument("--phase", type=PolicyKind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(asyncio.run(measure(arguments.phase, arguments.episodes, arguments.turns))))
        return
    rows: dict[str, JsonObject] = {}
    for number, kind in enumerate((PolicyKind.SERVER, PolicyKind.TOKENS), 1):
        cost = in_a_process_of_its_own(kind, arguments.episodes, arguments.turns)
        rows[f"phase {number}, own CPU of a turn"] = row(cost.milliseconds_per_turn, BAR_MILLISECONDS, "ms CPU")
        rows[f"phase {number}, memory of an episode"] = row(cost.megabytes_per_episode, BAR_MEGABYTES, "MB")
        rows[f"phase {number}, turns"] = {**row(cost.turns_per_second, None, "1/s"), "better": "higher"}
    for name, one in rows.items():
        print(f"{name:32} {one['ours']:9} {one['unit']:8} bar {one['bar'] or '-'}")
    print(f"{arguments.episodes} episodes at once, {arguments.turns} turns each; load average {os.getloadavg()[0]:.2f}")
    if arguments.record:
        write_record("agent_loop", {"machine": machine(), "rows": rows})
    if arguments.json:
        print(json.dumps(rows))


def row(ours: float, bar: float | None, unit: str) -> JsonObject:
    return {"ours": round(ours, 3), "peer": None, "ratio": None, "bar": bar, "better": "lower", "unit": unit}


def in_a_process_of_its_own(kind: PolicyKind, episodes: int, turns: int) -> Cost:
    """One phase, in a process whose memory holds nothing else."""
    command = [sys.executable, "-m", "benchmarks.agent_loop", f"--phase={kind}", f"--episodes={episodes}", f"--turns={turns}"]
    return Cost(*json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))


async def measure(kind: PolicyKind, episodes: int, turns: int) -> Cost:
    """Play a few episodes to have everything loaded, then all of them."""
    with instant_server(turns) as url:
        policy = open_policy(PolicyConfig(kind=kind, base_url=url, tokenizer=TOKENIZER, max_tokens=1 << 20))
        try:
            await play(policy, WARM_UP, turns)
            before, started, on_cpu = resident_bytes(), time.monotonic(), time.process_time()
            environment = await play(policy, episodes, turns)
            played, spent = episodes * turns, time.process_time() - on_cpu
            seconds = time.monotonic() - started
        finally:
            await policy.aclose()
    return Cost(spent / played * 1e3, (environment.resident - before) / episodes / 1e6, played / seconds)


async def play(policy: object, episodes: int, turns: int) -> Reading:
    """All episodes at once, as one group. Raises where one of them was lost or ended early."""
    environment = Reading(episodes, turns)
    limits = EpisodeLimits(generation_seconds=3600, tool_seconds=3600)
    arena = Arena(environment, policy, NoBackend(), limits)  # type: ignore[arg-type]
    group = await run_group(arena, environment.tasks(Split.TRAIN)[0], episodes)
    wrong = [one for one in group.trajectories if one.reward is None or one.reward.total != 1.0]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {episodes} episodes did not play {turns} turns; the first: {wrong[0].failure}")
    return environment


@contextmanager
def instant_server(turns: int) -> Iterator[str]:
    """The address of a server that answers at once; it lives as long as the block."""
    command = [sys.executable, "-m", "benchmarks.instant_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(answers(turns)) + "\n")
        server.stdin.flush()
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def answers(turns: int) -> Mapping[str, object]:
    """What the server says by path: to go on, and to end."""
    gold = Reading(1, 2).gold(Reading(1, 2).tasks(Split.TRAIN)[0])
    calls = [json.loads(text.removeprefix("<tool_call>").removesuffix("</tool_call>")) for text in gold]
    encode = Renderer.from_directory(TOKENIZER).encode
    return {
        "/v1/chat/completions": (*(chat(one["name"], one["arguments"]) for one in calls), turns),
        "/generate": (*(generated(encode(f"{text}<|im_end|>")) for text in gold), turns),
    }


def chat(name: str, arguments: JsonObject) -> JsonObject:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{name}", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    usage = {"prompt_tokens": 900, "completion_tokens": 30}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": usage}  # type: ignore[dict-item]


def generated(ids: Sequence[int]) -> JsonObject:
    pairs = [[-0.125, index, None] for index in ids]
    meta: JsonObject = {"output_token_logprobs": pairs, "finish_reason": {"type": "stop"}, "weight_version": "1"}  # type: ignore[dict-item]
    return {"output_ids": [*ids], "meta_info": meta}


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
