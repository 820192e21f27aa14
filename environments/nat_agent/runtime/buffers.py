"""Memory for what the fork server relays, which no fork inherits.

A fork shares the server's memory, what was freed in it too. If sources, inputs and answers of one evaluation were
ever in there, the code of the next one could find them.
"""

import mmap
from collections.abc import Callable
from contextlib import suppress

MADV_WIPEONFORK = 18  # the mmap module does not name it


class Buffer:
    """A queue of at most `size` bytes. A fork finds zeros in it."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(MADV_WIPEONFORK)
        self._view = memoryview(self._memory)
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def room(self) -> int:
        """How many bytes it can still take."""
        return len(self._view) - len(self)

    def head(self, count: int | None = None) -> memoryview:
        """The first `count` bytes (all of them), not copied."""
        end = self._end if count is None else min(self._end, self._start + count)
        return self._view[self._start : end]

    def drop(self, count: int) -> None:
        """Forget the first `count` bytes."""
        self._start += count
        if self._start == self._end:
            self._start = self._end = 0

    def put(self, data: bytes | memoryview) -> None:
        """Append. Raises ValueError where there is no room."""
        self._compact()
        self._view[self._end : self._end + len(data)] = data
        self._end += len(data)

    def fill(self, receive: Callable[[memoryview], int]) -> int:
        """Append what `receive` writes into the room that is left; how many bytes it says that these are."""
        self._compact()
        count = receive(self._view[self._end :])
        self._end += count
        return count

    def close(self) -> None:
        """Give the memory back."""
        self._view.release()
        with suppress(BufferError):  # where a part of it is still looked at, the last look gives it back
            self._memory.close()

    def _compact(self) -> None:
        if self._start:
            self._memory.move(0, self._start, len(self))
            self._start, self._end = 0, len(self)
