"""Memory that is free goes back to the system."""

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
    """Have blocks from 256 KiB on be mapped one by one, so that each goes back when it is freed. Tell if it is.

    By default glibc raises that bound to 32 MiB as large blocks are freed. Then documents of 15 MiB lie among small
    things that stay, and a server that has once been asked for much keeps twice as much as it ever counted.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _LARGE) and mallopt(_TRIM_THRESHOLD, _KEPT))
    return False  # another C library, which has its own ways
