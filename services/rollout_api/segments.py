"""Files that frames are appended to, so that each is written once: on the disk before the rows that point at it.

A file holds zstd frames behind each other and nothing else; where one begins is said in the database. What is behind
the last of them came from a commit that did not end, and is cut off. A file goes as a whole, when none of its frames
is kept any more.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from isal import isal_zlib

from core.files import flush

SEGMENT_BYTES = 32 << 20
SUFFIX = ".frames"
MAX_PARTS = 1024  # of one write, on Linux


class Place(NamedTuple):
    """Where a frame lies; bytes. `checksum` is its CRC-32."""

    segment: int
    start: int
    length: int
    checksum: int


class Segments:
    """The files below one folder. One thread appends and removes; others may read what was committed."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Makes the folder. Raises OSError."""
        self._folder, self._segment_bytes = folder, segment_bytes
        folder.mkdir(exist_ok=True)
        flush(folder.parent)
        self.sizes: dict[int, int] = {
            int(path.stem): path.stat().st_size for path in folder.glob(f"*{SUFFIX}") if path.stem.isdecimal()
        }
        """Bytes of each segment."""
        self._open: tuple[int, int] | None = None  # its number and descriptor
        self._next = max(self.sizes, default=0) + 1

    @property
    def total_bytes(self) -> int:
        """Of all segments together."""
        return sum(self.sizes.values())

    def append(self, frames: Sequence[bytes]) -> list[Place]:
        """Write frames and wait until they are on the disk. Raises OSError, and has written nothing then."""
        segment, file = self._to_append()
        begin = self.sizes[segment]
        try:
            length = _write(file, frames, begin)
            os.fdatasync(file)
        except OSError:
            # what a failed fdatasync has written is anybody's guess, also for the next one: nothing more goes in here
            self.cut(segment, begin)
            self.seal()
            raise
        self.sizes[segment] = begin + length
        places: list[Place] = []
        for frame in frames:
            places.append(Place(segment, begin, len(frame), isal_zlib.crc32(frame)))
            begin += len(frame)
        return places

    def read(self, place: Place) -> bytes:
        """The frame that lies there. Raises OSError where its segment is gone, and ValueError where it is damaged."""
        file = os.open(self._path(place.segment), os.O_RDONLY)
        try:
            frame = os.pread(file, place.length, place.start)
        finally:
            os.close(file)
        if len(frame) != place.length or isal_zlib.crc32(frame) != place.checksum:
            raise ValueError(f"{self._path(place.segment)}: not what was written at {place.start}")
        return frame

    def rewind(self, sizes: Mapping[int, int]) -> None:
        """Take back what was written since the segments had these sizes."""
        for number, size in list(self.sizes.items()):
            if number not in sizes:
                self.remove(number)
            elif size > sizes[number]:
                self.cut(number, sizes[number])

    def cut(self, number: int, length: int) -> None:
        """Shorten a segment, as far as the disk allows: no row points at what is behind."""
        with suppress(OSError):
            os.truncate(self._path(number), length)
        self.sizes[number] = length

    def remove(self, number: int) -> None:
        """Delete a segment that no row points into."""
        if self._open is not None and self._open[0] == number:
            self.seal()
        with suppress(OSError):
            self._path(number).unlink(missing_ok=True)
        self.sizes.pop(number, None)

    def seal(self) -> None:
        """Write no more into the segment that is open."""
        if self._open is not None:
            os.close(self._open[1])
        self._open = None

    def is_open(self, number: int) -> bool:
        """Whether more will be written into that segment."""
        return self._open is not None and self._open[0] == number

    def _to_append(self) -> tuple[int, int]:
        if self._open is not None and self.sizes[self._open[0]] < self._segment_bytes:
            return self._open
        self.seal()
        number, self._next = self._next, self._next + 1
        file = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._open = number, file
        self.sizes[number] = 0
        try:
            flush(self._folder)
        except OSError:
            self.remove(number)
            raise
        return self._open

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}{SUFFIX}"


def _write(file: int, frames: Sequence[bytes], start: int) -> int:
    """Write them at that byte; how many bytes they are."""
    length = sum(map(len, frames))
    written = os.pwritev(file, frames, start) if len(frames) <= MAX_PARTS else 0
    if written < length:  # the disk is nearly full, or there are more parts than one call takes
        rest = memoryview(b"".join(frames))[written:]
        while rest:
            rest = rest[os.pwrite(file, rest, start + length - len(rest)) :]
    return length
