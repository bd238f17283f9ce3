"""Directories for the data of a `mongod`: in memory, where there is enough of it.

Each test makes a dozen collections, and each collection and index is a file that is synced when it is made. On a disk
that takes `mongod` twice the CPU, and three times as long.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the directories below it are private
_NAME: Final = "eventsync-tests"
_ROOM: Final = 6 * 1024**3
"""Bytes that have to be free for one more directory in memory; the largest takes 1 GiB."""


@contextmanager
def data_directory(fallback: Path) -> Iterator[Path]:
    """A new directory while the block runs: in memory, else `fallback`, which may not exist yet."""
    directory = _MEMORY / f"{_NAME}-{os.getpid()}-{secrets.token_hex(4)}" if _room() >= _ROOM else fallback
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def directories_of(pid: int | str = "*") -> list[Path]:
    """Return the directories in memory that a process, or any process, has made and not removed."""
    return list(_MEMORY.glob(f"{_NAME}-{pid}-*"))


def sweep() -> None:
    """Remove what killed processes have left."""
    for left in directories_of():
        pid = left.name.removeprefix(f"{_NAME}-").partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)


def _room() -> int:
    """Return the bytes that may be used in memory, as far as the system says."""
    try:
        found = os.statvfs(_MEMORY)
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    return min(found.f_bavail * found.f_frsize, available, _allowed())


def _allowed() -> int:
    """Return the bytes of memory that the control group may use; a container's, for instance."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return int(limit) if limit.isdigit() else 2**63
