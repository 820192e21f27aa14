"""Fakes that fulfil the Protocols, shared by tests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from backends.base import Capabilities, ExecResult, Process, SandboxLost, SandboxPathError, SandboxSpec, Tier
from core.types import JsonObject, Message, Reward, Role, Task, ToolSpec, Trajectory, Turn
from environments.base import Environment, Split, Tool, ToolMistake
from environments.gold_policy import GoldPolicy
from environments.policy import Completion, CompletionRequest
from environments.tool_context import ToolContext


class FakeSandbox:
    """A sandbox in memory: files, and commands that a function answers."""

    def __init__(self, number: int, answer: "Callable[[Sequence[str]], ExecResult]") -> None:
        self.id = f"fake-{number}"
        self.content: dict[str, bytes] = {}
        self.destroyed = False
        self._answer = answer

    async def exec(
        self,
        argv: Sequence[str],
        *,
        timeout_seconds: float,
        stdin: bytes = b"",
        cwd: str = "/workspace",
        env: Mapping[str, str] | None = None,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        self._check()
        return self._answer(argv)

    async def spawn(self, argv: Sequence[str], **asked: object) -> Process:
        raise SandboxLost("a fake sandbox starts no programs")

    async def read(self, path: str, *, max_bytes: int = 1 << 20) -> bytes:
        self._check()
        if path not in self.content:
            raise SandboxPathError(f"{path}: no such file")
        return self.content[path][:max_bytes]

    async def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        self._check()
        self.content[path] = data

    async def files(self, *, max_files: int = 1000) -> tuple[str, ...]:
        self._check()
        return tuple(sorted(self.content))[:max_files]

    async def alive(self) -> bool:
        return not self.destroyed

    async def destroy(self) -> None:
        self.destroyed = True

    def _check(self) -> None:
        if self.destroyed:
            raise SandboxLost(f"{self.id} is gone")


class FakeBackend:
    """Makes fake sandboxes and remembers them; `answer` runs their commands."""

    name = "fake"

    def __init__(self, answer: Callable[[Sequence[str]], ExecResult] | None = None) -> None:
        self.made: list[FakeSandbox] = []
        self._answer = answer or (lambda argv: ExecResult(exit_code=0, stdout=" ".join(argv).encode(), stderr=b""))

    async def probe(self) -> Capabilities:
        return Capabilities(backend=self.name, tier=Tier.UNSAFE, detail="in memory")

    async def create(self, spec: SandboxSpec, **asked: object) -> FakeSandbox:
        self.made.append(FakeSandbox(len(self.made), self._answer))
        return self.made[-1]

    async def reap(self, **asked: object) -> tuple[str, ...]:
        return ()

    async def aclose(self) -> None:
        for sandbox in self.made:
            await sandbox.destroy()


class FakePolicy:
    """Says the same lines in every episode; a line that is an exception is raised, a function is awaited."""

    def __init__(self, lines: Sequence[str | Exception | Callable[[CompletionRequest], Awaitable[str]]]) -> None:
        self.lines, self.requests, self.closed = list(lines), list[CompletionRequest](), False

    async def complete(self, request: CompletionRequest) -> Completion:
        self.requests.append(request)
        line = self.lines[len(request.turns)]
        if isinstance(line, Exception):
            raise line
        text = line if isinstance(line, str) else await line(request)
        return await GoldPolicy(lambda task: [text]).complete(CompletionRequest(request.episode_id, request.task))

    async def aclose(self) -> None:
        self.closed = True


def object_schema(*names: str) -> JsonObject:
    """A JSON schema of an object with these strings."""
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}


async def write_answer(context: ToolContext, arguments: JsonObject) -> str:
    """Write the answer down, as digits."""
    if not str(arguments["text"]).isdigit():
        raise ToolMistake(f"{arguments['text']!r} is not a number")
    await context.write_text("answer", str(arguments["text"]))
    return "written"


async def look(context: ToolContext, arguments: JsonObject) -> str:
    """Read a file."""
    return await context.read_text(str(arguments["path"]))


async def hand_in(context: ToolContext, arguments: JsonObject) -> str:
    """Nothing more to do."""
    return "handed in"


WRITE = Tool(ToolSpec(name="write", description="Write the answer.", parameters=object_schema("text")), write_answer)
LOOK = Tool(ToolSpec(name="look", description="Read a file.", parameters=object_schema("path")), look)
FINISH = Tool(ToolSpec(name="finish", description="Hand in.", parameters=object_schema()), hand_in, ends_episode=True)


class Sums(Environment):
    """Tasks: what is N + N? The answer is a file in the sandbox."""

    name = "sums"
    max_turns = 4

    def __init__(self, extra: Sequence[Tool] = ()) -> None:
        self._tools = (WRITE, LOOK, FINISH, *extra)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def tasks(self, split: Split) -> Sequence[Task]:
        return [self.task(number) for number in (range(8) if split is Split.TRAIN else range(100, 104))]

    def task(self, number: int) -> Task:
        ask = Message(role=Role.USER, content=f"What is {number} + {number}?")
        specs = tuple(tool.spec for tool in self._tools)
        return Task(id=f"sum-{number}", environment=self.name, messages=(ask,), tools=specs, data={"sum": 2 * number})

    def tools(self, task: Task) -> Sequence[Tool]:
        return self._tools

    def sandbox(self, task: Task) -> SandboxSpec:
        return SandboxSpec()

    async def reward(self, task: Task, turns: Sequence[Turn], context: ToolContext) -> Reward:
        written = "answer" in await context.files() and await context.read_text("answer")
        return Reward.of({"turns": float(len(turns))}, correct=float(written == str(task.data["sum"])))

    def gold(self, task: Task) -> Sequence[str]:
        return [call("write", text=str(task.data["sum"])), call("finish")]

    def report(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        return {"episodes": float(len(trajectories))}


def call(name: str, **arguments: str) -> str:
    """A tool call as a hermes-format model writes it."""
    body = ", ".join(f'"{key}": "{value}"' for key, value in arguments.items())
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{{body}}}}}\n</tool_call>'


class HeldClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)
