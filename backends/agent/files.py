"""Files of a sandbox: reached part by part from an open directory, following no link anywhere."""
# pathlib knows no dir_fd
# ruff: noqa: PTH208

from __future__ import annotations

import errno
import os
import stat

from backends.agent.loop import Refused
from backends.agent.processes import Setup, Suppressed

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_DEPTH = 32
MAX_VISITED = 100_000
PROBLEMS = {
    errno.ENOENT: "not_found",
    errno.EISDIR: "is_a_directory",
    errno.ENOTDIR: "not_a_directory",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",
    errno.EFBIG: "no_space",
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.ELOOP: "not_a_file",
}


def read_file(setup: Setup, path: str, max_bytes: int) -> bytes:
    """The bytes of a regular file. Raises Refused for anything else, and for more than `max_bytes`."""
    directory, name = _open_parent(setup, path, make=False)
    try:
        # non-blocking, or opening a FIFO would wait for a writer
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise refusal(error) from error
    finally:
        os.close(directory)
    try:
        return _read_regular(fd, max_bytes)
    except OSError as error:
        raise refusal(error) from error
    finally:
        os.close(fd)


def write_file(setup: Setup, path: str, data: bytes | memoryview, mode: int) -> None:
    """Write beside the target and rename over it: a reader sees the old file or the new one, whole. Raises Refused."""
    directory, name = _open_parent(setup, path, make=True)
    temporary = f".natgym-{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, mode, dir_fd=directory), "wb") as file:
            file.write(data)
        os.replace(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        with Suppressed(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise refusal(error) from error
    finally:
        os.close(directory)


def list_files(setup: Setup, path: str, max_files: int) -> list[str]:
    """Paths of regular files below a directory, relative to it, at most `max_files`, sorted.

    Names that are not UTF-8 are left out. Raises Refused where that is no directory.
    """
    root, parts = _located(setup, path)
    try:
        os.close(open_directory(root, parts))
    except OSError as error:
        raise refusal(error) from error
    found: list[str] = []
    visited, queue = 0, [""]
    while queue and len(found) < max_files and visited < MAX_VISITED:
        relative = queue.pop()
        entries = _entries(root, [*parts, *(part for part in relative.split("/") if part)])
        visited += len(entries)
        prefix = f"{relative}/" if relative else ""
        found += [prefix + name for name, mode in entries if stat.S_ISREG(mode)]
        if prefix.count("/") < MAX_DEPTH:
            queue += [prefix + name for name, mode in reversed(entries) if stat.S_ISDIR(mode)]
    return sorted(found)[:max_files]


def open_directory(root: str, parts: list[str], *, make: bool = False) -> int:
    """A descriptor of a directory below `root`, reached part by part. Raises OSError where a part is a link."""
    current = os.open(root, DIRECTORY)
    for part in parts:
        try:
            if make:
                with Suppressed(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            following = os.open(part, DIRECTORY, dir_fd=current)
        finally:
            os.close(current)
        current = following
    return current


def refusal(error: OSError) -> Refused:
    """What the system said of a path, as the host is told."""
    message = "is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
    return Refused("path", message, PROBLEMS.get(error.errno or 0, "other"))


def _entries(root: str, parts: list[str]) -> list[tuple[str, int]]:
    """(name, mode) of what is in a directory, sorted; nothing if it was removed or replaced in the meantime."""
    try:
        directory = open_directory(root, parts)
    except OSError:
        return []
    entries = []
    try:
        for name in sorted(os.listdir(directory)):
            with Suppressed(OSError, UnicodeEncodeError):
                name.encode()
                entries.append((name, os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode))
    finally:
        os.close(directory)
    return entries


def _open_parent(setup: Setup, path: str, *, make: bool) -> tuple[int, str]:
    """A descriptor of the parent directory, and the last name of the path."""
    root, parts = _located(setup, path)
    if not parts:
        raise Refused("path", "is a directory", "is_a_directory")
    try:
        return open_directory(root, parts[:-1], make=make), parts[-1]
    except OSError as error:
        raise refusal(error) from error


def _located(setup: Setup, path: str) -> tuple[str, list[str]]:
    """The directory from which a path of the host's leads on, and its parts from there."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise Refused("path", "expected a path without '..' and NUL", "escapes")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise Refused("path", f"holds half a character: {error.reason}") from error
    if not path.startswith("/"):
        return setup.workspace, parts
    if parts[:1] == ["workspace"]:
        return setup.workspace, parts[1:]
    if not setup.isolated:
        raise Refused("path", "is outside of /workspace, which is all that this backend shows", "escapes")
    return "/", parts


def _read_regular(fd: int, max_bytes: int) -> bytes:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("path", "is not a regular file", "is_a_directory" if stat.S_ISDIR(status.st_mode) else "not_a_file")
    data = bytearray()
    size = status.st_size
    # a file may grow while it is read, so what was read counts as well
    while size <= max_bytes and (chunk := os.read(fd, 1 << 20)):
        data += chunk
        size = max(size, len(data))
    if size > max_bytes:
        raise Refused("path", f"holds {size} bytes, at most {max_bytes} were asked for", "too_large")
    return bytes(data)
