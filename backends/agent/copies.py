"""The files of a sandbox as a whole, kept in memory that no command can reach; trees.py puts them back.

An archive is a row of frames as in frames.py, one for each directory, link and regular file, directories before what is
in them: {"root": number of the writable directory, "path", "mode", and "link" or "mtime"}, and the bytes of a file.
"""
# pathlib knows no dir_fd
# ruff: noqa: PTH208

from __future__ import annotations

import os
import stat

from backends.agent.files import open_directory
from backends.agent.frames import LENGTHS, decode, pack
from backends.agent.loop import Refused

MAX_ARCHIVE_BYTES = 1 << 29
MAX_ENTRIES = 100_000
MAX_DEPTH = 256
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry:
    """What an archive says of one name, and where the bytes of a file are in it."""

    __slots__ = ("is_directory", "link", "mode", "mtime", "offset", "size")

    def __init__(self, header: dict, offset: int, size: int) -> None:
        self.mode: int = header["mode"]
        self.link: str | None = header.get("link")
        self.mtime: int = header.get("mtime", 0)
        self.is_directory = self.link is None and "mtime" not in header
        self.offset, self.size = offset, size


class Archive:
    """Files in memory. Close it when it is not needed any more."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("archive")
        self.size = 0
        self._entries = 0
        self._directories: dict[tuple[int, str], dict[str, Entry]] | None = None

    def append(self, data: bytes) -> None:
        """Take a part of an archive made elsewhere. Raises Refused over the limit."""
        self._make_room(len(data))
        self.size += os.pwrite(self.fd, data, self.size)

    def part(self, offset: int, size: int) -> bytes:
        """Some of its bytes."""
        return os.pread(self.fd, size, offset)

    def close(self) -> None:
        """Free it."""
        os.close(self.fd)

    def keep(self, roots: list[str]) -> None:
        """Add what the directories hold; sockets, FIFOs and devices are left out. Raises Refused over a limit."""
        for number, root in enumerate(roots):
            queue: list[list[str]] = [[]]
            while queue:
                parts = queue.pop()
                try:
                    directory = open_directory(root, parts)
                except PermissionError as error:
                    raise Refused("limit", f"{'/'.join(parts) or root} cannot be read; no snapshot") from error
                except OSError:
                    continue  # removed or replaced in the meantime
                try:
                    for name in os.listdir(directory):
                        if self._keep_entry(directory, name, {"root": number, "path": "/".join([*parts, name])}):
                            queue.append([*parts, name])
                finally:
                    os.close(directory)
                if len(parts) > MAX_DEPTH:
                    raise Refused("limit", f"more than {MAX_DEPTH} directories within each other; no snapshot")

    def directories(self, roots: int) -> dict[tuple[int, str], dict[str, Entry]]:
        """What each directory holds: (number of its root, its path) -> name -> entry. Parents come before their children."""
        if self._directories is None:
            self._directories = self._read(roots)
        return self._directories

    def copy(self, entry: Entry, fd: int) -> None:
        """Write the bytes of an entry to the start of a file."""
        offset, end = entry.offset, entry.offset + entry.size
        while offset < end:
            offset += os.sendfile(fd, self.fd, offset, end - offset)

    def _read(self, roots: int) -> dict[tuple[int, str], dict[str, Entry]]:
        found: dict[tuple[int, str], dict[str, Entry]] = {(number, ""): {} for number in range(roots)}
        offset = 0
        while offset < self.size:
            header_bytes, body_bytes = LENGTHS.unpack(self.part(offset, LENGTHS.size))
            header = decode(os.fsdecode(self.part(offset + LENGTHS.size, header_bytes)))
            offset += LENGTHS.size + header_bytes
            entry = Entry(header, offset, body_bytes)
            parent, _, name = header["path"].rpartition("/")
            found[header["root"], parent][name] = entry
            if entry.is_directory:
                found[header["root"], header["path"]] = {}
            offset += body_bytes
        return found

    def _keep_entry(self, directory: int, name: str, header: dict[str, object]) -> bool:
        """Whether it is a directory to look into."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            header["mode"] = stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                self._head(header, 0)
                return True
            if stat.S_ISLNK(status.st_mode):
                self._head({**header, "link": os.readlink(name, dir_fd=directory)}, 0)
            elif stat.S_ISREG(status.st_mode):
                self._keep_file(directory, name, header)
        except FileNotFoundError:
            pass  # removed in the meantime
        except PermissionError as error:
            raise Refused("limit", f"{header['path']} cannot be read; no snapshot") from error
        return False

    def _keep_file(self, directory: int, name: str, header: dict[str, object]) -> None:
        try:
            fd = os.open(name, READ_FLAGS, dir_fd=directory)
        except PermissionError:
            raise
        except OSError:
            return  # removed or replaced in the meantime
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return
            self._head({**header, "mtime": status.st_mtime_ns}, status.st_size)
            os.lseek(self.fd, self.size, os.SEEK_SET)
            end = self.size + status.st_size
            while self.size < end and (copied := os.sendfile(self.fd, fd, None, end - self.size)):
                self.size += copied
            os.ftruncate(self.fd, end)  # one that shrank in the meantime ends in zeros
            self.size = end
        finally:
            os.close(fd)

    def _head(self, header: dict[str, object], body_bytes: int) -> None:
        frame = pack(header, body_bytes)
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise Refused("limit", f"more than {MAX_ENTRIES} files; no snapshot")
        self._make_room(len(frame) + body_bytes)
        self.size += os.pwrite(self.fd, frame, self.size)

    def _make_room(self, size: int) -> None:
        if self.size + size > MAX_ARCHIVE_BYTES:
            raise Refused("limit", f"more than {MAX_ARCHIVE_BYTES} bytes of files; no snapshot")
