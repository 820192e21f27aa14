"""The files of a sandbox as a whole: kept in memory that no command can reach, removed, and put back.

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
WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Archive:
    """Files in memory. Close it when it is not needed any more."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("archive")
        self.size = 0
        self._entries = 0

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
                directory = open_directory(root, parts)
                try:
                    for name in os.listdir(directory):
                        if self._keep_entry(directory, name, {"root": number, "path": "/".join([*parts, name])}):
                            queue.append([*parts, name])
                finally:
                    os.close(directory)
                if len(parts) > MAX_DEPTH:
                    raise Refused("limit", f"more than {MAX_DEPTH} directories within each other; no snapshot")

    def put_back(self, roots: list[str]) -> None:
        """Write everything into the directories, which are empty."""
        modes: list[tuple[str, list[str], int]] = []
        offset = 0
        while offset < self.size:
            header_bytes, body_bytes = LENGTHS.unpack(self.part(offset, LENGTHS.size))
            header = decode(os.fsdecode(self.part(offset + LENGTHS.size, header_bytes)))
            offset += LENGTHS.size + header_bytes
            root, parts = roots[header["root"]], header["path"].split("/")
            directory = open_directory(root, parts[:-1])
            try:
                if "link" in header:
                    os.symlink(header["link"], parts[-1], dir_fd=directory)
                elif "mtime" in header:
                    self._put_file(directory, parts[-1], header, (offset, body_bytes))
                else:
                    os.mkdir(parts[-1], 0o700, dir_fd=directory)
                    modes.append((root, parts, header["mode"]))
            finally:
                os.close(directory)
            offset += body_bytes
        for root, parts, mode in reversed(modes):  # at the end, because a directory may be closed to its owner
            directory = open_directory(root, parts)
            os.fchmod(directory, mode)
            os.close(directory)

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
        fd = os.open(name, READ_FLAGS, dir_fd=directory)
        try:
            status = os.fstat(fd)
            self._head({**header, "mtime": status.st_mtime_ns}, status.st_size)
            os.lseek(self.fd, self.size, os.SEEK_SET)
            end = self.size + status.st_size
            while self.size < end and (copied := os.sendfile(self.fd, fd, None, end - self.size)):
                self.size += copied
            os.ftruncate(self.fd, end)  # one that shrank in the meantime ends in zeros
            self.size = end
        finally:
            os.close(fd)

    def _put_file(self, directory: int, name: str, header: dict, place: tuple[int, int]) -> None:
        offset, left = place
        fd = os.open(name, WRITE_FLAGS, header["mode"], dir_fd=directory)
        try:
            while left > 0:
                copied = os.sendfile(fd, self.fd, offset, left)
                offset, left = offset + copied, left - copied
            os.utime(fd, ns=(header["mtime"], header["mtime"]))
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


def empty(roots: list[str]) -> None:
    """Remove everything in these directories, however deep: each directory in them is moved up before it is emptied."""
    for root in roots:
        top = open_directory(root, [])
        try:
            waiting = _clear(top, top)
            while waiting:
                name = waiting.pop()
                directory = open_directory(root, [name])
                try:
                    waiting += _clear(directory, top)
                finally:
                    os.close(directory)
                os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)


def _clear(directory: int, top: int) -> list[str]:
    """Remove the files of a directory and move its directories to `top`; returns their names there."""
    moved = []
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            place = f".natgym-{os.urandom(8).hex()}"
            os.chmod(name, 0o700, dir_fd=directory)  # a closed directory can be neither moved nor emptied
            os.rename(name, place, src_dir_fd=directory, dst_dir_fd=top)
            moved.append(place)
    return moved
