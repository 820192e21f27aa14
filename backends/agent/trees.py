"""Directories made to hold what an archive says, or nothing.

What is there already is used again where that is safe: the pages of a file that has the right size are written over, which
takes a third of the time of freeing them and asking for others. Every byte is written all the same, because nothing that
can be asked of a file says that it did not change: a write through a shared mapping of a file in memory sets no time.

Nothing of the sandbox runs meanwhile, so what was looked at is still there when it is opened.
"""
# pathlib knows no dir_fd
# ruff: noqa: PTH208

from __future__ import annotations

import os
import stat

from backends.agent.files import DIRECTORY, open_directory
from backends.agent.loop import Refused
from backends.agent.processes import Suppressed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from backends.agent.copies import Archive, Entry

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
OLD = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
BLOCK, PAGE = 512, os.sysconf("SC_PAGE_SIZE")
OPEN = 0o700


def empty(roots: list[str]) -> None:
    """Remove everything in these directories."""
    for root in roots:
        top = _open_root(root)
        try:
            _drain(root, top, _clear(top, top))
        finally:
            os.close(top)


def put_back(archive: Archive, roots: list[str]) -> None:
    """Make these directories hold what the archive holds. Raises Refused where the disk is too small for it."""
    tops = [_open_root(root) for root in roots]
    directories = [(number, _parts(path), entries) for (number, path), entries in archive.directories(len(roots)).items()]
    try:
        kept = [_prepare(roots[number], tops[number], parts, entries) for number, parts, entries in directories]
        # only now is everything gone that would take the room
        for (number, parts, entries), names in zip(directories, kept):  # noqa: B905 since Python 3.10
            directory = open_directory(roots[number], parts)
            try:
                for name, entry in entries.items():
                    if entry.link is not None:
                        os.symlink(entry.link, name, dir_fd=directory)
                    elif not entry.is_directory:
                        _write(archive, entry, _open_old(directory, name) if name in names else _open_new(directory, name))
            finally:
                os.close(directory)
        for number, parts, entries in reversed(directories):
            _close_directories(roots[number], parts, entries)
    except OSError as error:
        raise Refused("limit", f"the files cannot be put back, and only some of them were: {error.strerror}") from error
    finally:
        for top in tops:
            os.close(top)


def _prepare(root: str, top: int, parts: list[str], entries: dict[str, Entry]) -> set[str]:
    """Remove from a directory what is not to be there, and make its directories. Returns the names that stay."""
    kept: set[str] = set()
    directory = open_directory(root, parts)
    try:
        for name in os.listdir(directory):
            entry = entries.get(name)
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if entry is None or not _usable(found, entry):
                _drain(root, top, _remove(directory, name, top))
                continue
            kept.add(name)
            needed = 0o700 if entry.is_directory else 0o200
            if found.st_mode & needed != needed:
                os.chmod(name, 0o700, dir_fd=directory)
            if entry.is_directory:
                _strip_at(directory, name)
        for name, entry in entries.items():
            if entry.is_directory and name not in kept:
                os.mkdir(name, 0o700, dir_fd=directory)
    finally:
        os.close(directory)
    return kept


def _usable(found: os.stat_result, entry: Entry) -> bool:
    """Whether it may stay to be written over: a directory, or a file of that size with one name, holding no more than it."""
    if entry.is_directory or not stat.S_ISREG(found.st_mode):
        return entry.is_directory and stat.S_ISDIR(found.st_mode)
    room = (entry.size + PAGE - 1) // PAGE * PAGE
    same = entry.link is None and found.st_nlink == 1 and found.st_size == entry.size
    return same and found.st_blocks * BLOCK <= room


def _open_old(directory: int, name: str) -> int:
    fd = os.open(name, OLD, dir_fd=directory)
    _strip(fd)
    return fd


def _open_new(directory: int, name: str) -> int:
    return os.open(name, NEW, 0o600, dir_fd=directory)


def _write(archive: Archive, entry: Entry, fd: int) -> None:
    """Make an open file what the archive says; closes it."""
    try:
        archive.copy(entry, fd)
        os.fchmod(fd, entry.mode)  # last, because writing takes the set-user-id bit away
        os.utime(fd, ns=(entry.mtime, entry.mtime))
    finally:
        os.close(fd)


def _close_directories(root: str, parts: list[str], entries: dict[str, Entry]) -> None:
    """Give directories their modes, which may close them to their owner: those within go first."""
    modes = {name: entry.mode for name, entry in entries.items() if entry.is_directory}
    if modes:
        directory = open_directory(root, parts)
        for name, mode in modes.items():
            os.chmod(name, mode, dir_fd=directory)
        os.close(directory)


def _open_root(root: str) -> int:
    """A writable directory itself is the sandbox's too: it may have been closed, or carry attributes."""
    mode = stat.S_IMODE(os.stat(root).st_mode)  # noqa: PTH116
    if mode & OPEN != OPEN:
        os.chmod(root, mode | OPEN)  # noqa: PTH101
    top = open_directory(root, [])
    _strip(top)
    return top


def _strip_at(directory: int, name: str) -> None:
    fd = os.open(name, DIRECTORY, dir_fd=directory)
    _strip(fd)
    os.close(fd)


def _strip(fd: int) -> None:
    """Take away the attributes that a command can set: its own, and lists of who may do what."""
    with Suppressed(OSError):  # a file system without them
        for name in os.listxattr(fd):
            if name.startswith(("user.", "system.posix_acl_")):
                os.removexattr(fd, name)


def _drain(root: str, top: int, waiting: list[str]) -> None:
    """Remove directories that were moved to `top`, however deep: each one in them is moved up before it is emptied."""
    while waiting:
        name = waiting.pop()
        directory = open_directory(root, [name])
        try:
            waiting += _clear(directory, top)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)


def _clear(directory: int, top: int) -> list[str]:
    """Remove the files of a directory and move its directories to `top`; returns their names there."""
    return [moved for name in os.listdir(directory) for moved in _remove(directory, name, top)]


def _remove(directory: int, name: str, top: int) -> list[str]:
    """Remove a file, or move a directory to `top`; returns its name there."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        place = f".natgym-{os.urandom(8).hex()}"
        os.chmod(name, 0o700, dir_fd=directory)  # a closed directory can be neither moved nor emptied
        os.rename(name, place, src_dir_fd=directory, dst_dir_fd=top)
        return [place]
    return []


def _parts(path: str) -> list[str]:
    return path.split("/") if path else []
