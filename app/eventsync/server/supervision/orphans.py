"""No child outlives its parent, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)
"""Loaded here and not between fork and exec, where another thread's lock could be held for ever."""


def die_with_parent(number: int = signal.SIGTERM, parent: int | None = None) -> None:
    """For `preexec_fn`: the child gets signal `number` when its parent dies, even by kill -9. Linux only; else nothing.

    With `parent`, also when that process died before the child could ask for the signal.
    """
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), number)
