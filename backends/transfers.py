"""Files between the host and a sandbox: what is sent in one request, and what of a sandbox's may touch the host."""

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from errno import ENAMETOOLONG
from pathlib import Path
from typing import NamedTuple, Protocol

from backends.agent_replies import SnapshotAnswer
from backends.base import PathProblem, SandboxPathError
from core.errors import ConfigError

BATCH_BYTES = 1 << 23
BATCH_FILES = 500


class Upload(NamedTuple):
    """One file on its way into a sandbox."""

    path: str
    data: bytes
    mode: int


class Restore(Protocol):
    """Takes the parts of an archive, in order."""

    async def __call__(self, data: bytes, *, last: bool) -> None: ...


def batches(files: Mapping[str, bytes | Path]) -> Iterator[list[Upload]]:
    """The files in groups that fit one request; a file of the host is read when its group is due."""
    batch: list[Upload] = []
    size = 0
    for path, source in files.items():
        upload = _upload(path, source)
        if batch and (len(batch) == BATCH_FILES or size + len(upload.data) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(upload)
        size += len(upload.data)
    if batch:
        yield batch


def names_in(listing: bytes, max_files: int) -> tuple[str, ...] | None:
    """The names of a listing, sorted; None where one leaves its directory or there are too many."""
    try:
        names = listing.decode().split("\0") if listing else []
    except UnicodeDecodeError:
        return None
    if len(names) > max_files or any({"", ".", ".."} & set(name.split("/")) for name in names):
        return None
    return tuple(sorted(names))


def must_be_empty(destination: Path) -> None:
    """Raises ConfigError where a directory of the host holds something, or is none."""
    if not destination.is_dir():
        raise ConfigError(f"download to {destination}: expected a directory of this machine")
    if any(destination.iterdir()):
        raise ConfigError(f"download to {destination}: expected an empty directory; nothing is overwritten")


def write_below(destination: Path, name: str, data: bytes) -> None:
    """Write a file whose name `names_in` accepted.

    Raises FileExistsError where something is there already, SandboxPathError for a name too long for this machine.
    """
    target = destination / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(data)
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FileExistsError(name) from error
    except OSError as error:
        if error.errno != ENAMETOOLONG:
            raise
        raise SandboxPathError(
            f"{name[:100]}...: too long for a path of this machine", problem=PathProblem.TOO_LARGE
        ) from error


def too_much(path: str, found: str) -> SandboxPathError:
    """More below a path than was asked for."""
    return SandboxPathError(f"{path}: holds {found}", problem=PathProblem.TOO_LARGE)


async def hand_over(part: Callable[[int, int, int], Awaitable[bytes]], restore: Restore, kept: SnapshotAnswer) -> None:
    """Move an archive from one sandbox to another, in parts; none of it is read here."""
    for offset in range(0, max(kept.size, 1), BATCH_BYTES):
        size = min(BATCH_BYTES, kept.size - offset)
        await restore(await part(kept.snapshot, offset, size), last=offset + size >= kept.size)


def _upload(path: str, source: bytes | Path) -> Upload:
    if isinstance(source, bytes):
        return Upload(path, source, 0o644)
    try:
        return Upload(path, source.read_bytes(), 0o755 if os.access(source, os.X_OK) else 0o644)
    except OSError as error:
        raise ConfigError(f"upload of {source}: {error.strerror}; expected a file of this machine") from error
