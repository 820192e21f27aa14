"""The child processes of a run: started in groups of their own, watched, and all stopped at the end."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from core.errors import NatgymError
from core.logs import get_logger
from core.settings import child_environ

log = get_logger("up")

GRACE_SECONDS = 15.0
TAIL_LINES = 8
ROOT = Path(__file__).parent.parent.parent


class ServiceDied(NatgymError):
    """A child process ended that should not have; `tail` is the end of its log."""

    def __init__(self, child: "Child", code: int) -> None:
        self.service, self.tail = child.name, log_tail(child.log)
        told_user = code == 2  # one line about something that the user can mend
        self.exit_code = 2 if told_user else 1
        last = self.tail[-1].removeprefix("natgym: ") if self.tail else ""
        if told_user and last:
            super().__init__(last)
            self.tail = []
            return
        if code > 0:
            self.tail = self.tail[:-1]
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        super().__init__(f"the {child.name} {how}{f': {last}' if code > 0 and last else ''}; its log: {child.log}")


@dataclass(frozen=True)
class Child:
    """One child process. `may_end`: with code 0 that is no mishap."""

    name: str
    log: Path
    process: asyncio.subprocess.Process
    may_end: bool = False


class Children:
    """Starts natgym processes; leaving the block stops them all."""

    def __init__(self, logs: Path, grace_seconds: float = GRACE_SECONDS) -> None:
        self._logs, self._grace_seconds = logs, grace_seconds
        self._running: list[Child] = []
        self._stopping: set[int] = set()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_all()

    @property
    def pids(self) -> dict[str, int]:
        """The processes that were started and have not been waited for, by name."""
        return {child.name: child.process.pid for child in self._running}

    async def start(self, name: str, arguments: Sequence[str], *, may_end: bool = False) -> Child:
        """Start `natgym ARGUMENTS --parent US` with its output in NAME.log."""
        path = self._logs / f"{name.replace(' ', '_').lower()}.log"
        with path.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "services.cli", *arguments, f"--parent={os.getpid()}"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=child_environ(PYTHONPATH=_python_path()),
                start_new_session=True,  # Ctrl-C reaches us alone, and we end the children in order
            )
        child = Child(name, path, process, may_end)
        self._running.append(child)
        self._changed.set()
        return child

    async def watch(self) -> NoReturn:
        """Wait for ever. Raises ServiceDied as soon as a child ends that should not have."""
        while True:
            self._changed.clear()
            waiting = [asyncio.create_task(child.process.wait()) for child in self._watched()]
            changed = asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait([*waiting, changed], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*waiting, changed):
                    task.cancel()
            for child in self._watched():
                if child.process.returncode is not None:
                    self._ended(child, child.process.returncode)

    async def finished(self, child: Child) -> None:
        """Wait until a child that may end has ended. Raises ServiceDied where it failed."""
        self._ended(child, await child.process.wait())

    async def stop(self, child: Child) -> None:
        """End one child and all that it started: asked first, killed when it does not."""
        self._stopping.add(child.process.pid)  # how it ends now is no concern of who watches
        try:
            if child.process.returncode is None:
                with suppress(ProcessLookupError):
                    child.process.terminate()
                async with asyncio.timeout(self._grace_seconds):
                    await child.process.wait()
        except TimeoutError:
            log.warning("killed", service=child.name, after_seconds=self._grace_seconds)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
        await child.process.wait()
        self._forget(child)

    def _ended(self, child: Child, code: int) -> None:
        if code != 0 or not child.may_end:
            raise ServiceDied(child, code)
        self._forget(child)

    def _watched(self) -> list[Child]:
        return [child for child in self._running if child.process.pid not in self._stopping]

    def _forget(self, child: Child) -> None:
        if child in self._running:
            self._running.remove(child)
        self._stopping.discard(child.process.pid)

    async def _stop_all(self) -> None:
        await asyncio.gather(*(self.stop(child) for child in reversed(self._running)))


def log_tail(path: Path) -> list[str]:
    """The last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]


def _python_path() -> str:
    """Where this very natgym lies comes first, whatever folder we were started in."""
    before = child_environ().get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), *([before] if before else [])])


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
