"""Hidden tests of a repository, run where the policy's code cannot reach them.

The repository is copied into a fresh sandbox, where its functions are only called; the tests run in another one, and
this process carries plain values between the two. Code that the policy wrote can lie about its own results and nothing
else: it never runs where a verdict is reached, and it is never shown a test, only one call at a time.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from backends.base import Backend, Process, Sandbox, SandboxError, SandboxPathError, SandboxSpec
from core.errors import RewardError
from environments.episode import lease
from environments.swe.repair import Repair, is_source
from environments.tool_context import ToolContext

INSIDE = Path(__file__).with_name("inside")
LIBRARY = ".natgym"
PACKAGE = f"{LIBRARY}/environments/swe/inside"
REPOSITORY = "repository"
HIDDEN = "hidden"
SECONDS = 120.0  # of the whole trial, on a machine that is busy; calls are bounded by CPU inside
MAX_LINE = 1 << 20
MAX_FILE_BYTES = 1 << 18
ENDED = b'{"error": "RuntimeError", "message": "the process ended"}\n'
SPEC = SandboxSpec(memory_mib=512, processes=64, disk_mib=32)


class Verdict(NamedTuple):
    """What became of hidden tests."""

    passed: int
    total: int
    problem: str = ""
    """Why there is no full verdict; the doing of what was tested."""

    @property
    def solved(self) -> bool:
        """Whether every test passed, and there was one."""
        return self.total > 0 and self.passed == self.total


async def sources(repair: Repair, context: ToolContext) -> Mapping[str, str]:
    """The repository's own Python as the policy left it: no tests, no caches, no start-up files of an interpreter."""
    listed = [path for path in await context.files() if is_source(path)]
    found: dict[str, str] = {}
    for path in dict.fromkeys([*filter(is_source, repair.files), *listed]):
        with suppress(SandboxPathError):  # what is gone or too large is not part of it
            found[path] = await context.read_text(path, max_bytes=MAX_FILE_BYTES)
    return found


async def hidden_tests(backend: Backend, repair: Repair, files: Mapping[str, str]) -> Verdict:
    """Run the hidden tests of a repair on the sources in `files`. Raises SandboxError, and RewardError for broken tests."""
    async with lease(backend, SPEC) as court, lease(backend, SPEC) as copy:
        await court.upload({**_library("plain", "suite"), **_below(HIDDEN, repair.hidden)})
        await copy.upload({**_library("plain", "answers"), **_below(REPOSITORY, files)})
        suite = Lines(await _start(court, "suite", HIDDEN, *repair.modules))
        answers = Lines(await _start(copy, "answers", REPOSITORY))
        try:
            async with asyncio.timeout(SECONDS):
                verdict = await _carry(suite, answers)
        except TimeoutError:
            return Verdict(0, 1, f"no verdict within {SECONDS:g} s")
    return Verdict(sum(verdict.values()), len(verdict))


async def _carry(suite: "Lines", answers: "Lines") -> dict[str, bool]:
    """Bring questions of the tests to the repository and its answers back, until there is a verdict."""
    while line := await suite.next():
        said = json.loads(line)
        if "verdict" in said:
            return said["verdict"]
        await suite.say(await answers.answer(json.dumps(said["ask"]).encode() + b"\n"))
    raise RewardError(f"the hidden tests ended without a verdict: {suite.errors()}", "swe.reward")


class Lines:
    """A program that speaks in lines."""

    def __init__(self, process: Process) -> None:
        self._process, self._held, self._ended = process, b"", False

    async def next(self) -> bytes:
        """Its next line, b"" at the end or where a line is longer than any honest one."""
        while b"\n" not in self._held:
            chunk = await self._process.receive()
            if not chunk or len(self._held) > MAX_LINE:
                return b""
            self._held += chunk
        line, _, self._held = self._held.partition(b"\n")
        return line

    async def say(self, line: bytes) -> None:
        """Give it a line."""
        await self._process.send(line)

    async def answer(self, question: bytes) -> bytes:
        """What it answers to a line: whatever it says, or that it has ended."""
        if not self._ended:
            try:
                await self.say(question)
                line = await self.next()
            except SandboxError:
                line = b""
            self._ended = not line
            if line:
                return line + b"\n"
        return ENDED

    def errors(self) -> str:
        """The end of what it printed to standard error."""
        return self._process.stderr_tail()[-300:].strip() or "nothing was printed"


def _library(*modules: str) -> dict[str, bytes | Path]:
    return {f"{PACKAGE}/{name}.py": INSIDE / f"{name}.py" for name in modules}


def _below(folder: str, files: Mapping[str, str]) -> dict[str, bytes | Path]:
    return {f"{folder}/{path}": text.encode() for path, text in files.items()}


async def _start(sandbox: Sandbox, module: str, *words: str) -> Process:
    # isolated: neither variables nor the working directory decide what is imported
    start = f"import sys; sys.path.insert(0, {LIBRARY!r}); from environments.swe.inside.{module} import main; main()"
    return await sandbox.spawn(["python3", "-I", "-B", "-c", start, *words])
