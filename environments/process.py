"""Training data without any other service: groups are played, and the episodes that a selection keeps become rows.

One JSON object a line, in the form that was asked for. The file only grows, and a run that was killed is taken up where it
stopped: `FILE.progress` says how long the file was after each group, what stands behind that is dropped.
"""

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field

from core.errors import BadData, ConfigError, UserError
from core.files import append_whole, flush, hold, make_folder, resumable
from core.types import JsonObject, ScoredGroup, Value
from environments.base import Split
from environments.data_formats import DataFormat, rows_of
from environments.ephemeral import without_tokens
from environments.episode import Arena
from environments.group import run_group
from environments.rows import first_problem
from environments.selection import Selection, select

T = TypeVar("T")


class ProcessConfig(Selection):
    """What is made, and of which episodes."""

    groups: int = Field(default=100, gt=0)
    group_size: int = Field(default=4, gt=0)
    form: DataFormat = DataFormat.SHAREGPT
    concurrent_groups: int = Field(default=4, gt=0)
    split: Split = Split.TRAIN
    token_ids: bool = True
    """Keep those of a group; not where an ephemeral system prompt is in them."""


class ProcessReport(Value):
    """What was made in this run and before it."""

    groups: int
    rows: int
    left_out: dict[str, int]
    """Episodes that the selection did not keep, by the condition that they missed."""
    lost: int
    """Episodes that broke at a boundary. A group that was lost whole is played again by the next run."""
    rolled_back: int = 0
    """Turns that were sampled again because they could not be read, each time counted."""


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
    rolled_back: int = 0
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
        try:
            make_folder(self.path.parent)
            self.path.open("a").close()
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror or error}") from error
        with ExitStack() as opened, resumable(self.path):
            self._rows = opened.enter_context(FileIO(self.path, "a+"))
            self._progress = opened.enter_context(FileIO(f"{self.path}.progress", "a+"))
            flush(self.path.parent)  # the names of both
            hold(self._progress, self.path)
            self._resume()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:  # a write that a cancelled owner no longer waits for ends first
            self._opened.close()

    def append(self, number: int, group: ScoredGroup, config: ProcessConfig) -> None:
        """Write the rows of a group, on disk when this returns. A group that was lost whole counts as not played."""
        with self._lock, resumable(self.path):
            self._lost += len(group.failed)
            if not group.scored:
                return
            group = group if config.token_ids else without_tokens(group)
            selected = select(group, config, self._seen)
            rows = rows_of(group, selected.kept, config.form)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
            end = append_whole(self._rows, text)
            entry = Progress(
                group=number,
                end=end,
                rows=len(rows),
                left_out=selected.left_out,
                lost=len(group.failed),
                rolled_back=sum(turn.rolled_back for one in group.trajectories for turn in one.turns),
                digests=tuple(selected.digests),
            )
            try:
                append_whole(self._progress, f"{entry.model_dump_json()}\n".encode())
            except OSError:  # rows that nothing tells of would stay before those of the next group
                self._rows.truncate(end - len(text))
                raise
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
            rolled_back=sum(entry.rolled_back for entry in entries),
        )

    def _resume(self) -> None:
        """Read what is done, and drop what a killed run left behind it in both files."""
        self._progress.seek(0)
        lines = [line for line in self._progress.read().splitlines(keepends=True) if line.endswith(b"\n")]
        size = self._rows.seek(0, os.SEEK_END)
        if not lines and size:
            raise ConfigError(
                f"{self.path}: exists, and {self.path}.progress does not say how it was made; choose another file"
            )
        if not lines:
            self._progress.truncate(0)
            append_whole(self._progress, json.dumps(self._header).encode() + b"\n")
            return
        found = self._read(1, lines[0], json.loads)
        if found != self._header:
            raise ConfigError(f"{self.path}: was made with {found}, not with {self._header}; choose another file")
        entries = [self._read(number, line, Progress.model_validate_json) for number, line in enumerate(lines[1:], start=2)]
        end = max((entry.end for entry in entries), default=0)
        if size < end:
            raise ConfigError(f"{self.path}: has {size} bytes, {self.path}.progress tells of {end}; choose another file")
        self.done = {entry.group: entry for entry in entries}
        self._seen = {digest for entry in entries for digest in entry.digests}
        self._progress.truncate(sum(map(len, lines)))
        self._rows.truncate(end)
        self._rows.seek(0, os.SEEK_END)

    def _read(self, number: int, line: bytes, parse: Callable[[bytes], T]) -> T:
        """What a line of the progress file says. Raises BadData naming its row and field."""
        try:
            return parse(line)
        except ValueError as error:
            raise BadData(f"{self.path}.progress: row {number}: {first_problem(error)}") from error


def _header(arena: Arena, config: ProcessConfig) -> JsonObject:
    """What must stay the same for a file to be taken up again."""
    told = config.model_dump(mode="json", exclude={"groups", "concurrent_groups"})
    return {"environment": arena.environment.name, **told}
