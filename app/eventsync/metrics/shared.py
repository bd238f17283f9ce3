"""The figures of several server processes on one port, so that a scrape of any of them tells of all.

Each process writes its figures to a file of its own, every second and at its end, in a directory that their supervisor
has made. It locks another file while it lives: the kernel releases that lock however the process ends. The counters of
processes that have ended are added up in one file, so that totals never decrease. A process that is killed takes with
it what it has counted in its last second.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import orjson

from eventsync.metrics.catalogue import ALL
from eventsync.metrics.figures import Figures

logger = logging.getLogger(__name__)

_PERIOD: Final = 1.0
"""Seconds between two writes of a process's figures."""

_ENDED: Final = "ended"
"""The file with the sum of the processes that have ended. It names those that it includes and whose files it replaces,
because a process that is killed between the two steps leaves both."""


@contextmanager
def figures_directory() -> Iterator[Path | None]:
    """Make a directory for `SharedFigures` while the block runs; None where no file can be written."""
    try:
        directory = _new_directory()
    except OSError as error:
        logger.warning("each server process shows its own metrics only, because they can share no file: %s", error)
        yield None
        return
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _new_directory() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="eventsync-"))
    except OSError:
        # In an image whose root is read-only this one is in memory.
        return Path(tempfile.mkdtemp(prefix="eventsync-", dir="/dev/shm"))


class SharedFigures:
    """This process's part of a directory that several processes share. Nothing here waits for another process."""

    def __init__(self, directory: Path, collect: Callable[[], Figures]) -> None:
        """`collect` returns this process's figures as of now."""
        self._directory = directory
        self._collect = collect
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        # Held open, and locked, for as long as the figures are those of a live process.
        self._alive = os.open(directory / f"{self._name}.alive", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._alive, fcntl.LOCK_EX)

    async def keep(self) -> None:
        """Write the figures every second, until the task is cancelled, and once more then."""
        try:
            while True:
                self._write()
                await asyncio.sleep(_PERIOD)
        finally:
            self._write()
            os.close(self._alive)

    def total(self) -> tuple[Figures, int]:
        """Return the figures of all processes together, this one's as of now, and the number of those that live."""
        figures, alive = self._collect(), 1
        try:
            with self._locked():
                ended, included = self._ended()
                for name in self._others() - included:
                    # Before its file is read: that of a process which has ended is final.
                    is_alive = self._is_alive(name)
                    other = Figures.of_tree(orjson.loads((self._directory / f"{name}.figures").read_bytes()), ALL)
                    if is_alive:
                        figures.add(other)
                        alive += 1
                    else:
                        ended.add(other, is_alive=False)
                        included.add(name)
                self._fold(ended, included)
                figures.add(ended, is_alive=False)
        except (OSError, ValueError) as error:
            logger.warning("the metrics are those of one server process: %s", error)
        return figures, alive

    def _write(self) -> None:
        try:
            _replace(self._directory / f"{self._name}.figures", self._collect().encoded())
        except OSError as error:
            logger.warning("the metrics of this server process can't be shared: %s", error)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _others(self) -> set[str]:
        return {path.stem for path in self._directory.glob("*.figures")} - {self._name}

    def _is_alive(self, name: str) -> bool:
        try:
            other = os.open(self._directory / f"{name}.alive", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(other)
        return False

    def _ended(self) -> tuple[Figures, set[str]]:
        try:
            found = orjson.loads((self._directory / _ENDED).read_bytes())
        except FileNotFoundError:
            return Figures(), set()
        return Figures.of_tree(found["figures"], ALL), set(found["included"])

    def _fold(self, ended: Figures, included: set[str]) -> None:
        """Store the sum of those that have ended, and then remove their files. The directory must be locked."""
        if not included:
            return
        _replace(self._directory / _ENDED, _sum(ended, included))
        for name in included:
            (self._directory / f"{name}.figures").unlink(missing_ok=True)
            (self._directory / f"{name}.alive").unlink(missing_ok=True)
        _replace(self._directory / _ENDED, _sum(ended, ()))


def _sum(ended: Figures, included: set[str] | tuple[()]) -> bytes:
    return orjson.dumps({"figures": orjson.Fragment(ended.encoded()), "included": sorted(included)})


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    new.write_bytes(data)
    new.replace(path)
