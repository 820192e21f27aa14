"""SFT data without any other service: groups are played, and those episodes that earned enough become rows.

One JSON object a line, in ShareGPT form. The file only grows, and a run that was killed is taken up where it
stopped: `FILE.progress` says how long the file was after each group, what stands behind that is dropped.
"""

import asyncio
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Self

from pydantic import Field

from core.config import Config
from core.errors import ConfigError, UserError
from core.types import JsonObject, ScoredGroup, Trajectory, Value
from environments.base import Split
from environments.episode import Arena
from environments.group import run_group
from environments.sharegpt import Conversation, to_sharegpt
from tool_call_parsers.rendering import history


class ProcessConfig(Config):
    """What is made."""

    groups: int = Field(default=100, gt=0)
    group_size: int = Field(default=4, gt=0)
    min_reward: float = 0.0
    """Total that an episode has to reach to become a row."""
    concurrent_groups: int = Field(default=4, gt=0)
    split: Split = Split.TRAIN


class ProcessReport(Value):
    """What was made in this run and before it."""

    groups: int
    rows: int
    below_min_reward: int
    lost: int
    """Episodes that broke at a boundary. A group that was lost whole is played again by the next run."""


async def generate(
    arena: Arena, config: ProcessConfig, out: Path, on_group: Callable[[ScoredGroup], None] = lambda group: None
) -> ProcessReport:
    """Play `config.groups` groups, those of earlier runs included, and append their rows to `out`.

    Raises ConfigError where `out` holds something else or is being written to, UserError where it cannot be written.
    """
    tasks = arena.environment.tasks(config.split)
    if not tasks:
        raise ConfigError(f"environment {arena.environment.name!r} has no tasks in split {config.split.value!r}")
    with RowFile(out, _header(arena, config)) as rows:
        waiting = iter([number for number in range(config.groups) if number not in rows.done])

        async def work() -> None:
            for number in waiting:
                name = f"{arena.environment.name}-{config.split.value}-{number:06d}"
                group = await run_group(arena, tasks[number % len(tasks)], config.group_size, name)
                await asyncio.to_thread(rows.append, number, group, config.min_reward)
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
    below_min_reward: int
    lost: int


class RowFile:
    """A file of rows and its progress, held by one process at a time."""

    def __init__(self, path: Path, header: JsonObject) -> None:
        self.path, self._header = path, header
        self.done: dict[int, Progress] = {}
        self._lost = 0
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

    def append(self, number: int, group: ScoredGroup, min_reward: float) -> None:
        """Write the rows of a group, on disk when this returns. A group that was lost whole counts as not played."""
        kept = [one for one in group.scored if one.reward is not None and one.reward.total >= min_reward]
        lines = "".join(json.dumps(row_of(group, one), ensure_ascii=False) + "\n" for one in kept).encode()
        with self._lock, _telling(self.path):
            self._lost += len(group.failed)
            if not group.scored:
                return
            end = _write(self._rows, lines)
            below = len(group.scored) - len(kept)
            entry = Progress(group=number, end=end, rows=len(kept), below_min_reward=below, lost=len(group.failed))
            _write(self._progress, f"{entry.model_dump_json()}\n".encode())
            self.done[number] = entry

    def report(self) -> ProcessReport:
        """What the file holds, and what was lost on the way in this run."""
        entries = self.done.values()
        return ProcessReport(
            groups=len(entries),
            rows=sum(entry.rows for entry in entries),
            below_min_reward=sum(entry.below_min_reward for entry in entries),
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
        self._rows.truncate(max((entry.end for entry in entries), default=0))
        self._rows.seek(0, os.SEEK_END)


def row_of(group: ScoredGroup, trajectory: Trajectory) -> JsonObject:
    """One scored episode as a row: ShareGPT conversation, reward and where it came from."""
    assert trajectory.reward is not None
    task = group.task
    return {
        "id": trajectory.id,
        "task_id": task.id,
        "environment": group.environment,
        "conversations": [dict(one) for one in to_sharegpt(Conversation(history(task.messages, trajectory.turns), task.tools))],
        "reward": trajectory.reward.total,
        "parts": dict(trajectory.reward.parts),
        "metrics": dict(trajectory.reward.metrics),
        "turns": len(trajectory.turns),
        "stop": trajectory.stop.value,
    }


def _header(arena: Arena, config: ProcessConfig) -> JsonObject:
    """What must stay the same for a file to be taken up again."""
    return {
        "environment": arena.environment.name,
        "split": config.split.value,
        "group_size": config.group_size,
        "min_reward": config.min_reward,
    }


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
