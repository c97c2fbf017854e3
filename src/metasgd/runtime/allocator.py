"""The C library's memory allocator, set to keep what is freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
LARGEST_REUSED = 32 * 2**20
"""Blocks above this many bytes still go back; the largest that every glibc accepts."""


def keep_freed_memory() -> bool:
    """Let freed memory be used again instead of going back to the operating system; whether that was possible.

    glibc gives large blocks back as soon as they, or their neighbours, are free. An inner loop frees and takes
    blocks of a few MiB all the time, and each one taken anew costs a page fault per 4 KiB: up to half of an
    outer step's time on a CPU. A process's peak of memory stays what it was; it stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # a C library that is not glibc
        return False
    settings = {M_MMAP_THRESHOLD: LARGEST_REUSED, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2 * LARGEST_REUSED}
    return all(mallopt(option, value) == 1 for option, value in settings.items())
