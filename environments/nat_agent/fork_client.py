"""The host's end of the fork server: children to lease, each asked one request at a time.

Everything that arrives here was written by somebody who may be hostile. A frame that breaks the protocol ends the child
or the server that it came from; it is never interpreted further.
"""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence

from pydantic import Field, JsonValue

from backends.base import Process, SandboxError
from core.config import Config
from core.errors import RewardError
from core.types import JsonObject, Value

HEADER = struct.Struct(">II")
MAX_FRAME = 1 << 20
MAX_UNREAD, MAX_SERIES = 64, 32
MAX_ERROR = 400
MAX_DEPTH = 48
END_SECONDS = 60.0

Answers = Mapping[str, Callable[[JsonObject], Awaitable[JsonObject]]]
"""What answers the questions of a child, by their kind: `llm`, `mcp`."""


class ForkLimits(Config):
    """What one child may use up before it is killed; being killed is the fault of the code that it ran."""

    cpu_seconds: int = Field(default=10, gt=0)
    wall_seconds: float = Field(default=60.0, gt=0)
    memory_mib: int = Field(default=1536, gt=0, description="address space; NAT alone maps 500 MiB")


class Hello(Value):
    """What the fork server says of itself once NAT is imported."""

    nat_version: str
    walls: tuple[str, ...]
    missing: tuple[str, ...]
    memory_mib: float
    """Of the server itself, before its first fork."""


class ChildLost(Exception):
    """A child ended, was killed at a limit, or broke the protocol."""


class ChildMistake(Exception):
    """A request failed inside a child; the message is what the child says went wrong."""


class Fork:
    """One forked child."""

    def __init__(self, link: "ServerLink", channel: int) -> None:
        self._link, self.channel = link, channel
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue(maxsize=MAX_UNREAD)
        self._lost: Exception | None = None
        self._news = asyncio.Event()
        self.ended = asyncio.Event()
        self.cpu_seconds = 0.0
        """User and system time of the child and of what it waited for; known once it ended."""

    async def ask(self, request: JsonObject, answers: Answers | None = None) -> JsonObject:
        """The result of one request, an object of unknown content.

        The child may ask `answers` in between. Raises ChildMistake when the request failed in the child, ChildLost when
        the child is gone, RewardError when the server is.
        """
        await self._link.send(self.channel, request)
        while True:
            answer = parsed(await self._receive())
            kind = next((kind for kind in answers or () if isinstance(answer.get(kind), dict)), None)
            if answers is not None and kind is not None:
                await self._link.send(self.channel, await answers[kind](as_object(answer[kind])))
            elif "error" in answer:
                raise mistake(answer)
            else:
                return as_object(answer.get("result"))

    async def ask_all(self, requests: Sequence[JsonObject]) -> list[JsonObject | ChildMistake]:
        """The result of each request, or why it failed. The child is told them one at a time; it may ask nothing.

        Raises ChildLost when the child goes away before the last answer, RewardError when the server does.
        """
        results: list[JsonObject | ChildMistake] = []
        for start in range(0, len(requests), MAX_SERIES):
            series = requests[start : start + MAX_SERIES]
            await self._link.send(self.channel, *series)
            for _ in series:
                answer = parsed(await self._receive())
                failed = "error" in answer
                results.append(mistake(answer) if failed else as_object(answer.get("result")))
        return results

    async def _receive(self) -> bytes:
        while self._inbox.empty():
            if self._lost is not None:
                raise self._lost
            self._news.clear()
            await self._news.wait()
        return self._inbox.get_nowait()

    def deliver(self, body: bytes) -> None:
        """One frame that the child sent."""
        if self._inbox.full():
            self.lose(ChildLost("it said more than it was asked"))
            return
        self._inbox.put_nowait(body)
        self._news.set()

    def lose(self, why: Exception) -> None:
        """Nothing more will come; what was delivered can still be read."""
        self._lost = self._lost or why
        self._news.set()


class ServerLink:
    """The frames of one running fork server. `read_forever` must run beside every use of it."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._forks: dict[int, Fork] = {}
        self._last_channel = 0
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self.dead: RewardError | None = None
        self.cpu_seconds = 0.0
        """Of all children that ended."""
        self.memory_mib = 0.0
        """Of the server itself, when its last child ended."""

    @property
    def forks(self) -> int:
        """How many children were asked for so far."""
        return self._last_channel

    @property
    def idle(self) -> bool:
        """Whether nobody holds a child."""
        return not self._forks

    async def hello(self, limit_seconds: float) -> Hello:
        """What the server said first. Raises RewardError when it does not say it in time."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._hello), limit_seconds)
        except TimeoutError:
            raise RewardError(f"the fork server did not start within {limit_seconds:.0f} s{self._stderr()}") from None

    async def send(self, channel: int, *messages: JsonObject) -> None:
        """A frame each. Raises RewardError when the server is gone."""
        if self.dead is not None:
            raise self.dead
        bodies = [json.dumps(message).encode() for message in messages]
        try:
            await self._process.send(b"".join(HEADER.pack(len(body), channel) + body for body in bodies))
        except (SandboxError, OSError) as error:
            raise self._die(f"{type(error).__name__}: {error}") from error

    async def fork(self, limits: ForkLimits) -> Fork:
        """A fresh child."""
        self._last_channel += 1
        fork = self._forks[self._last_channel] = Fork(self, self._last_channel)
        await self.send(0, {"do": "fork", "channel": fork.channel, **limits.model_dump()})
        return fork

    async def end(self, fork: Fork) -> None:
        """Kill a child and wait until the server has reaped it and all that it started."""
        if not fork.ended.is_set() and self.dead is None:
            await self.send(0, {"do": "kill", "channel": fork.channel})
            try:
                await asyncio.wait_for(fork.ended.wait(), END_SECONDS)
            except TimeoutError:
                raise self._die(f"it did not end a child within {END_SECONDS:.0f} s") from None
        self._forks.pop(fork.channel, None)

    async def read_forever(self) -> None:
        """Deliver what arrives until the server ends; then everybody who waits gets a RewardError."""
        buffer = bytearray()
        why = "it ended"
        try:
            while data := await self._process.receive():
                buffer += data
                self._deliver(buffer)
        except (SandboxError, OSError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
        finally:
            self._die(why)

    def _deliver(self, buffer: bytearray) -> None:
        """Take every whole frame off the front of `buffer`. Raises ValueError on what no honest server sends."""
        while len(buffer) >= HEADER.size:
            length, channel = HEADER.unpack_from(buffer)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            end = HEADER.size + length
            if len(buffer) < end:
                return
            body = bytes(buffer[HEADER.size : end])
            del buffer[:end]
            if channel == 0:
                self._server_says(json.loads(body))
            elif channel in self._forks:
                self._forks[channel].deliver(body)

    def _server_says(self, message: JsonObject) -> None:
        if "hello" in message:
            self._hello.set_result(Hello.model_validate(message["hello"]))
        fork = self._forks.get(int(str(message.get("ended", 0))))
        if fork is not None:
            fork.cpu_seconds = float(str(message["cpu_seconds"]))
            self.cpu_seconds += fork.cpu_seconds
            self.memory_mib = float(str(message.get("memory_mib", self.memory_mib)))
            reason = str(message["reason"])
            fork.lose(RewardError(f"the fork server {reason}") if message.get("blameless") else ChildLost(reason))
            fork.ended.set()

    def _die(self, why: str) -> RewardError:
        if self.dead is None:
            self.dead = RewardError(f"the fork server is gone: {why}{self._stderr()}")
            if not self._hello.done():
                self._hello.set_exception(self.dead)
                self._hello.exception()  # read, so that nobody waiting is no warning
            for fork in self._forks.values():
                fork.lose(self.dead)
                fork.ended.set()
        return self.dead

    def _stderr(self) -> str:
        tail = self._process.stderr_tail().strip().splitlines()[-3:]
        return f"; it wrote: {' | '.join(tail)}" if tail else ""


def parsed(body: bytes) -> JsonObject:
    """One answer of a child. Raises ChildLost for what is no JSON object."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ChildLost("its answer is no JSON") from error
    if not isinstance(answer, dict):
        raise ChildLost("its answer is no object")
    if deeper(answer, MAX_DEPTH):
        raise ChildLost(f"its answer is nested more than {MAX_DEPTH} deep")
    return answer


def mistake(answer: JsonObject) -> ChildMistake:
    """What a child says went wrong."""
    return ChildMistake(str(answer["error"])[:MAX_ERROR])


def as_object(value: JsonValue) -> JsonObject:
    """`value` where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def deeper(value: JsonValue, limit: int) -> bool:
    """Whether lists and objects are nested in each other more than `limit` times."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(one, list | dict) for one in level)
