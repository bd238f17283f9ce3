"""Return free memory to the operating system."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3), as glibc numbers them."""

_LARGE: Final = 256 * 1024
_KEPT: Final = 4 * 1024 * 1024


def return_free_memory() -> bool:
    """Map each block of 256 KiB or more separately, so that freeing it returns its memory. Return True on success.

    By default glibc raises this threshold up to 32 MiB as large blocks are freed. Documents of 15 MiB then lie between
    small objects that stay, and after one peak a server keeps twice the memory that it ever counted.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _LARGE) and mallopt(_TRIM_THRESHOLD, _KEPT))
    return False  # another C library
