"""What became of each group, one JSON line each: for people, and for figures about a run."""

import time
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from core.logs import get_logger
from core.types import ScoredGroup, Value

log = get_logger("environment_server")


class GroupRecord(Value):
    """One group that was handed over."""

    id: str
    task_id: str
    time: float
    """When it had been handed over, in seconds since 1970."""
    policy_version: int
    rewards: tuple[float, ...]
    lost: dict[str, int]
    """Episodes without a score, by boundary."""
    play_seconds: float
    post_seconds: float

    @classmethod
    def of(cls, group: ScoredGroup, *, play_seconds: float, post_seconds: float) -> Self:
        """The record of a group that has just been handed over."""
        boundaries = [one.failure.boundary for one in group.failed if one.failure is not None]
        return cls(
            id=group.id,
            task_id=group.task.id,
            time=time.time(),
            policy_version=group.policy_version,
            rewards=group.rewards,
            lost={name: boundaries.count(name) for name in sorted(set(boundaries))},
            play_seconds=play_seconds,
            post_seconds=post_seconds,
        )


class GroupFile:
    """Appends records to a file, or keeps nothing where there is none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, record: GroupRecord) -> None:
        """Append one line. A record is worth less than a group: a crash or a full disk may cost some."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{record.model_dump_json()}\n")
        except OSError as error:
            log.warning("record_not_written", group=record.id, problem=f"{self._path}: {error.strerror or error}")


def read_groups(path: Path) -> list[GroupRecord]:
    """The records of a file, whole lines only; none where there is no file."""
    records: list[GroupRecord] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                records.append(GroupRecord.model_validate_json(line))
            except ValidationError:
                continue
    return records
