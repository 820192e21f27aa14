"""Files of a sandbox: reached part by part from an open directory, following no link anywhere."""
# pathlib knows no dir_fd
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from backends.agent.loop import Refused
from backends.agent.processes import Setup

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DEPTH = 32
MAX_VISITED = 100_000


def read_file(setup: Setup, path: str, max_bytes: int) -> bytes:
    """The bytes of a regular file. Raises Refused for anything else, and for more than `max_bytes`."""
    directory, name = _open_parent(setup, path, make=False)
    try:
        # non-blocking, or opening a FIFO would wait for a writer
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise Refused("path", _explained(error)) from error
    finally:
        os.close(directory)
    try:
        return _read_regular(fd, max_bytes)
    except OSError as error:
        raise Refused("path", _explained(error)) from error
    finally:
        os.close(fd)


def write_file(setup: Setup, path: str, data: bytes) -> None:
    """Write beside the target and rename over it: a reader sees the old file or the new one, whole. Raises Refused."""
    directory, name = _open_parent(setup, path, make=True)
    temporary = f".natgym-{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, 0o644, dir_fd=directory), "wb") as file:
            file.write(data)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise Refused("path", _explained(error)) from error
    finally:
        os.close(directory)


def list_files(workspace: str, max_files: int) -> list[str]:
    """Relative paths of regular files, at most `max_files`, sorted; names that are not UTF-8 are left out."""
    found: list[str] = []
    visited, queue = 0, [""]
    while queue and len(found) < max_files and visited < MAX_VISITED:
        relative = queue.pop()
        entries = _entries(workspace, relative)
        visited += len(entries)
        prefix = f"{relative}/" if relative else ""
        found += [prefix + name for name, mode in entries if stat.S_ISREG(mode)]
        if prefix.count("/") < MAX_DEPTH:
            queue += [prefix + name for name, mode in reversed(entries) if stat.S_ISDIR(mode)]
    return sorted(found)[:max_files]


def _entries(workspace: str, relative: str) -> list[tuple[str, int]]:
    """(name, mode) of what is in a directory, sorted; nothing if it was removed or replaced in the meantime."""
    try:
        directory = _open_directory(workspace, [part for part in relative.split("/") if part], make=False)
    except OSError:
        return []
    entries = []
    try:
        for name in sorted(os.listdir(directory)):
            with suppress(OSError, UnicodeEncodeError):
                name.encode()
                entries.append((name, os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode))
    finally:
        os.close(directory)
    return entries


def _open_parent(setup: Setup, path: str, *, make: bool) -> tuple[int, str]:
    """A descriptor of the parent directory, and the last name of the path."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise Refused("path", "expected a path without '..' and NUL")
    root = setup.workspace
    if path.startswith("/") and parts[:1] == ["workspace"]:
        parts = parts[1:]
    elif path.startswith("/") and setup.isolated:
        root = "/"
    elif path.startswith("/"):
        raise Refused("path", "is outside of /workspace, which is all that this backend shows")
    if not parts:
        raise Refused("path", "is a directory")
    try:
        return _open_directory(root, parts[:-1], make=make), parts[-1]
    except OSError as error:
        raise Refused("path", _explained(error)) from error


def _open_directory(root: str, parts: list[str], *, make: bool) -> int:
    current = os.open(root, DIRECTORY)
    for part in parts:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            following = os.open(part, DIRECTORY, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def _read_regular(fd: int, max_bytes: int) -> bytes:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("path", "is not a regular file")
    data = bytearray()
    size = status.st_size
    # a file may grow while it is read, so what was read counts as well
    while size <= max_bytes and (chunk := os.read(fd, 1 << 20)):
        data += chunk
        size = max(size, len(data))
    if size > max_bytes:
        raise Refused("path", f"holds {size} bytes, at most {max_bytes} were asked for")
    return bytes(data)


def _explained(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a symbolic link"
    return error.strerror or str(error)
