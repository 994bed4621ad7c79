"""The memory of a process that allocates and frees logits all the time."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def keep_freed_memory() -> None:
    """Ask glibc to keep up to a gigabyte of freed memory for the next allocations.

    Fresh pages cost more than the computation on them: a draw from [16, 50257] in float64 takes
    three times as long.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # of malloc.h
    with suppress(OSError, AttributeError, TypeError):  # another C library or system
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_threshold, 32 << 20)  # the largest value that it takes
        libc.mallopt(m_trim_threshold, 1 << 30)
