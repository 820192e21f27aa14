"""Final answers of mathematics: finding one in a text, and whether it equals the right one.

Two plain numbers are compared here, exactly. Anything else that a policy writes, such as \\frac{3}{4} or 2\\sqrt{2}, is
for math-verify (an extra: natgym[maths]), in a process of its own with a limit on CPU and memory. Without that package
the two texts have to be the same.
"""

import asyncio
import json
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from core.errors import RewardError

WORKER = Path(__file__).with_name("math_worker.py")
ANSWER_SECONDS = 120.0  # of a machine that is very busy; what is too hard for the worker ends by its limit on CPU
MAX_CHARACTERS = 300
NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?|[-+]?\.\d+", re.ASCII)
AROUND = re.compile(r"\\text\{[^{}]*\}|\\mathrm\{[^{}]*\}|\\[,;! ]|\\?[$%]|~|\s")
UNIT = re.compile(r"[A-Za-z]{2,}\.?$")  # one letter is a variable, and 42x is not 42


def final_answer(text: str) -> str | None:
    """What stands in the last \\boxed{...} of a text, else behind its last ####; None where there is neither."""
    start = text.rfind("\\boxed{")
    if start < 0:
        _, marker, rest = text.rpartition("####")
        return rest.strip().partition("\n")[0].strip() or None if marker else None
    depth = 0
    inside = start + len("\\boxed{")
    for position in range(inside - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[inside:position].strip() or None
    return None


def as_number(text: str) -> Fraction | None:
    """A text that is one number, with thousands separators, a currency, a percent sign or a unit or without; else None."""
    bare = UNIT.sub("", AROUND.sub("", text)).rstrip(".")
    if len(bare) > MAX_CHARACTERS or not NUMBER.fullmatch(bare):
        return None
    return Fraction(bare.replace(",", ""))


class MathVerifier:
    """Compares final answers. Entered with `async with`; the process is started by the first question that needs it."""

    def __init__(self) -> None:
        self._worker: Process | None = None
        self._turn = asyncio.Lock()
        self.installed = find_spec("math_verify") is not None
        """Whether math-verify is there; without it only numbers and equal texts are the same."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def same(self, right: str, given: str) -> bool:
        """Whether a given answer equals the right one. Raises RewardError where that cannot be told."""
        if "".join(right.split()) == "".join(given.split()):
            return True
        numbers = as_number(right), as_number(given)
        if None not in numbers:
            return numbers[0] == numbers[1]
        if not self.installed or len(given) > MAX_CHARACTERS:
            return False
        async with self._turn:
            return await self._ask(right, given)

    async def _ask(self, right: str, given: str) -> bool:
        # a dollar sign would end the formula and begin another one, and any of them might be taken for the answer
        question = [one.replace("\\$", "").replace("$", "") for one in (right, given)]
        worker = await self._started()
        assert worker.stdin
        assert worker.stdout
        verdict = b""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with suppress(ConnectionError):
                    worker.stdin.write(f"{json.dumps(question)}\n".encode())
                    await worker.stdin.drain()
                    verdict = await worker.stdout.readline()
        except TimeoutError as error:
            raise RewardError(f"math-verify gave no verdict within {ANSWER_SECONDS:g} s") from error
        finally:
            if not verdict:  # it died of the question, or is still at it
                await asyncio.shield(self._end())
        return verdict == b"true\n"

    async def _started(self) -> Process:
        if self._worker is None:
            # isolated: neither the working directory nor a variable decides what is imported
            command = [sys.executable, "-I", str(WORKER)]
            self._worker = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={})
            assert self._worker.stdout
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    ready = await self._worker.stdout.readline()
            except TimeoutError:
                ready = b""
            if ready != b'"ready"\n':
                await self._end()
                raise RewardError(f"math-verify did not start: {' '.join(command)}")
        return self._worker

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            with suppress(ProcessLookupError):
                worker.kill()
            await worker.communicate()
