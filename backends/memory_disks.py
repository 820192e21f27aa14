"""The memory disks of a sandbox: how many files they hold, and what memory they take. A file without bytes takes some too."""

from backends.base import SandboxSpec

MIB = 1 << 20
SHM_MIB = 64
"""The size of /dev/shm; the sizes of the others are in the spec."""
BYTES_FOR_A_FILE = 2048
"""A disk holds one file, or link, for each so many bytes."""
NODE_BYTES = 1024
"""At most what the kernel keeps of one, its bytes left out."""


def files_on(mib: int) -> int:
    """How many files a disk of that size holds."""
    return mib * MIB // BYTES_FOR_A_FILE


def memory_of(spec: SandboxSpec) -> int:
    """Bytes of memory for a sandbox as a whole: what its commands may have, and its disks when they are full."""
    disks_mib = 2 * spec.disk_mib + SHM_MIB
    return (spec.memory_mib + disks_mib) * MIB + files_on(disks_mib) * NODE_BYTES
