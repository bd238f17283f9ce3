"""Child processes that end with their parent, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)
"""Loaded here: between fork and exec, a lock of another thread could be held for ever."""


def die_with_parent(number: int = signal.SIGTERM, parent: int | None = None) -> None:
    """Have the child get signal `number` when its parent dies, even by kill -9. For `preexec_fn`; only on Linux.

    With `parent`, also if that process died before the child could ask for the signal.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), number)
