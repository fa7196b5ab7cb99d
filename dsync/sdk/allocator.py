"""The C allocator, set for processes that move pages of megabytes.

glibc takes a block of 128 KiB or more from the kernel and gives it back when it is freed, so that every copy of a
page costs its page faults anew; with both thresholds raised the heap keeps such blocks. Measured on pages of 1 MiB
and more: a third to a half less CPU. One threshold without the other switches glibc's own adaptation off and gains
nothing, hence both or neither.
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 1024**3
_TRIM_THRESHOLD_BYTES = 2**31 - 1


def tune() -> bool:
    """Set both thresholds; False where the C library is another than glibc. Called at the start of a process."""
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
    except (ValueError, OSError):
        # macOS and musl do not know the name.
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    if mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES) != 1:
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES) == 1)
