"""Memory of a process that takes large bodies all the time."""

import ctypes

KEPT_BYTES = 64 << 20
MAPPED_BYTES = 32 << 20  # the largest that the C library takes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Let the C library keep what was freed for the next body, where it is glibc.

    By default it gives a body's pages back to the kernel and asks for them again with the next one, which faults in and
    clears each of them: a fifth of what a large post costs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
