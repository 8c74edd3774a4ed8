"""Memory that one step of a computation frees, kept for the next."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3), and the largest values that it takes.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MOST_FREE = 2**31 - 1
MOST_FROM_HEAP = 32 * 2**20


def keep_freed_memory() -> None:
    """Have this process keep, rather than hand back to the kernel, blocks of up to 32 MiB that it frees.

    Otherwise glibc maps each large tensor anew, and every step pays for the faults of all its pages. It
    applies to the whole process, until it ends; where the C library is not glibc, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, MOST_FREE)
        mallopt(MMAP_THRESHOLD, MOST_FROM_HEAP)
