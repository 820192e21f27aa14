"""Gathers this process's memory into large pages: a fork then copies, and its end frees, hundreds of entries and not tens
of thousands.
"""

import ctypes
from pathlib import Path

MADV_COLLAPSE = 25
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGE = 2 << 20
ARENA, SMALL = 1 << 20, 512
"""Python takes memory for objects of at most SMALL bytes in pieces of ARENA bytes."""


def reserve(mib: int) -> list[bytes]:
    """Have Python take so much memory for small objects in one piece, for as long as the result is kept.

    Otherwise its arenas lie between the libraries that are loaded meanwhile, too small for large pages each. What the C
    library allocates is kept together too, in the heap.
    """
    mallopt = ctypes.CDLL(None).mallopt
    for option, size in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 1 << 30), (M_TOP_PAD, 16 << 20)):
        mallopt(option, size)
    blocks = [bytes(SMALL - 64) for _ in range((mib << 20) // SMALL)]
    return blocks[:: ARENA // SMALL // 2]


def gather() -> int:
    """Collapse private writable memory into pages of 2 MiB; how many ranges the kernel took.

    0 where it knows no such request (before Linux 6.1): nothing is lost but time.
    """
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    ranges = [private_range(line) for line in Path("/proc/self/maps").read_text().splitlines()]
    return sum(madvise(start, length, MADV_COLLAPSE) == 0 for start, length in ranges if length)


def private_range(line: str) -> tuple[int, int]:
    """Start and length of the large pages that lie wholly in one line of /proc/self/maps; length 0 where it is another kind."""
    where, rights, _, _, inode, *name = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in where.split("-"))
    start, end = -(-start // LARGE) * LARGE, end // LARGE * LARGE
    anonymous = inode == "0" and (not name or name[0] == "[heap]")
    return (start, end - start) if rights.startswith("rw-p") and anonymous and end > start else (0, 0)
