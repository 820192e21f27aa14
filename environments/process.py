"""Training data without any other service: groups are played, and the episodes that a selection keeps become rows.

One JSON object a line, in the form that was asked for. The file only grows, and a run that was killed is taken up where it
stopped: `FILE.progress` says how long the file was after each group, what stands behind that is dropped.
"""

import asyncio
import fcntl
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Self

from pydantic import Field

from core.errors import ConfigError, UserError
from core.types import JsonObject, ScoredGroup, Value
from environments.base import Split
from environments.data_formats import DataFormat, rows_of
from environments.episode import Arena
from environments.group import run_group
from environments.selection import Selection, select


class ProcessConfig(Selection):
    """What is made, and of which episodes."""

    groups: int = Field(default=100, gt=0)
    group_size: int = Field(default=4, gt=0)
    form: DataFormat = DataFormat.SHAREGPT
    concurrent_groups: int = Field(default=4, gt=0)
    split: Split = Split.TRAIN


class ProcessReport(Value):
    """What was made in this run and before it."""

    groups: int
    rows: int
    left_out: dict[str, int]
    """Episodes that the selection did not keep, by the condition that they missed."""
    lost: int
    """Episodes that broke at a boundary. A group that was lost whole is played again by the next run."""


async def generate(
    arena: Arena,
    config: ProcessConfig,
    out: Path,
    on_group: Callable[[ScoredGroup], None] = lambda group: None,
    on_resumed: Callable[[int], None] = lambda groups: None,
) -> ProcessReport:
    """Play `config.groups` groups, those of earlier runs included, and append their rows to `out`.

    `on_resumed` hears at the start how many are there already, `on_group` each one that is played.
    Raises ConfigError where `out` holds something else or is being written to, UserError where it cannot be written.
    """
    tasks = arena.environment.tasks(config.split)
    if not tasks:
        raise ConfigError(f"environment {arena.environment.name!r} has no tasks in split {config.split.value!r}")
    with RowFile(out, _header(arena, config)) as rows:
        waiting = [number for number in range(config.groups) if number not in rows.done]
        on_resumed(config.groups - len(waiting))
        numbers = iter(waiting)

        async def work() -> None:
            for number in numbers:
                name = f"{arena.environment.name}-{config.split.value}-{number:06d}"
                group = await run_group(arena, tasks[number % len(tasks)], config.group_size, name)
                await asyncio.to_thread(rows.append, number, group, config)
                on_group(group)

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(config.concurrent_groups):
                    workers.create_task(work())
        except* UserError as errors:
            raise errors.exceptions[0] from None
        return rows.report()


class Progress(Value):
    """One group that was written: how long the file was after it, and what became of its episodes."""

    group: int
    end: int
    """Bytes of the row file after the group's last row."""
    rows: int
    left_out: dict[str, int]
    lost: int
    digests: tuple[str, ...] = ()
    """Of the episodes that became rows, where they have to be unique."""


class RowFile:
    """A file of rows and its progress, held by one process at a time."""

    def __init__(self, path: Path, header: JsonObject) -> None:
        self.path, self._header = path, header
        self.done: dict[int, Progress] = {}
        self._lost = 0
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        with ExitStack() as opened, _telling(self.path):
            self._rows = opened.enter_context(FileIO(self.path, "a+"))
            self._progress = opened.enter_context(FileIO(f"{self.path}.progress", "a+"))
            self._hold()
            self._resume()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:  # a write that a cancelled owner no longer waits for ends first
            self._opened.close()

    def append(self, number: int, group: ScoredGroup, config: ProcessConfig) -> None:
        """Write the rows of a group, on disk when this returns. A group that was lost whole counts as not played."""
        with self._lock, _telling(self.path):
            self._lost += len(group.failed)
            if not group.scored:
                return
            selected = select(group, config, self._seen)
            rows = rows_of(group, selected.kept, config.form)
            end = _write(self._rows, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
            entry = Progress(
                group=number,
                end=end,
                rows=len(rows),
                left_out=selected.left_out,
                lost=len(group.failed),
                digests=tuple(selected.digests),
            )
            _write(self._progress, f"{entry.model_dump_json()}\n".encode())
            self.done[number] = entry
            self._seen.update(selected.digests)

    def report(self) -> ProcessReport:
        """What the file holds, and what was lost on the way in this run."""
        entries = self.done.values()
        return ProcessReport(
            groups=len(entries),
            rows=sum(entry.rows for entry in entries),
            left_out=dict(sum((Counter(entry.left_out) for entry in entries), Counter())),
            lost=self._lost,
        )

    def _hold(self) -> None:
        try:
            fcntl.flock(self._progress, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{self.path}: another process is writing to it") from error

    def _resume(self) -> None:
        """Read what is done, and drop what a killed run left behind it in both files."""
        self._progress.seek(0)
        lines = [line for line in self._progress.read().splitlines(keepends=True) if line.endswith(b"\n")]
        size = self._rows.seek(0, os.SEEK_END)
        if not lines and size:
            raise ConfigError(
                f"{self.path}: exists, and {self.path}.progress does not say how it was made; choose another file"
            )
        self._progress.truncate(sum(map(len, lines)))
        if not lines:
            _write(self._progress, json.dumps(self._header).encode() + b"\n")
            return
        found = json.loads(lines[0])
        if found != self._header:
            raise ConfigError(f"{self.path}: was made with {found}, not with {self._header}; choose another file")
        entries = [Progress.model_validate_json(line) for line in lines[1:]]
        self.done = {entry.group: entry for entry in entries}
        self._seen = {digest for entry in entries for digest in entry.digests}
        self._rows.truncate(max((entry.end for entry in entries), default=0))
        self._rows.seek(0, os.SEEK_END)


def _header(arena: Arena, config: ProcessConfig) -> JsonObject:
    """What must stay the same for a file to be taken up again."""
    told = config.model_dump(mode="json", exclude={"groups", "concurrent_groups"})
    return {"environment": arena.environment.name, **told}


def _write(file: FileIO, data: bytes) -> int:
    """Append and wait for the disk; how long the file is then. What could not be written whole is taken back."""
    before = file.seek(0, os.SEEK_END)
    try:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(before)
        raise
    return before + len(data)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; what was written before is whole, and the run can be resumed"
        ) from error
