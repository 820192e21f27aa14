"""Files that exist in memory only, and what else is handed to a program that is started as descriptors."""

import os
from types import TracebackType
from typing import Self


class MemoryFiles:
    """Made in a `with`, which closes them here; who inherited one keeps it."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for fd in self.fds:
            os.close(fd)

    def file(self, data: bytes) -> str:
        """The number of a descriptor of a file with those bytes, to be read from its start."""
        fd = os.memfd_create("file")
        self.fds.append(fd)
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return str(fd)

    def path(self, data: bytes) -> str:
        """The same as a path for the program that inherits it."""
        return f"/proc/self/fd/{self.file(data)}"

    def directory(self, path: str) -> str:
        """The number of a descriptor of a directory of the host, good for nothing but going on from there."""
        self.fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return str(self.fds[-1])

    def pipe(self) -> tuple[int, str]:
        """A pipe that the program writes to: our end, which the caller closes, and the number of the program's."""
        ours, theirs = os.pipe()
        self.fds.append(theirs)
        return ours, str(theirs)
