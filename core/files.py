"""Files that are whole or not there, and files that only grow."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from core.errors import ConfigError, UserError


def write_whole(path: Path, text: str) -> None:
    """Write a text file and make its folder; a reader, a full disk and a power cut find the old text or the new one.

    Raises OSError; what was written by then is deleted.
    """
    make_folder(path.parent)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        flush(partial)
        partial.replace(path)
        flush(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Put a file on the disk, or the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, on the disk. Raises OSError."""
    if not path.is_dir():
        if not path.parent.exists():  # else making this one tells best what is wrong with it
            make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def hold(file: FileIO, path: Path) -> None:
    """Keep the file for this process until it is closed. Raises ConfigError naming `path` where another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"{path}: another process is writing to it") from error


def append_whole(file: FileIO, data: bytes) -> int:
    """Append and wait for the disk; how long the file is then, in bytes.

    Raises OSError; what could not be written whole is taken back.
    """
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
def resumable(path: Path) -> Generator[None]:
    """Around writes with `append_whole`: a full disk becomes a UserError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or error}; what was written before is whole, and the run can be resumed"
        ) from error
