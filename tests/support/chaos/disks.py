"""A disk that can be full: a tmpfs of a member's own, which takes root to mount."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from support.waiting import patience

_MIB = 1024 * 1024


class MountRefusedError(Exception):
    """The machine lets us mount nothing."""


@cache
def missing() -> str | None:
    """Why there is no such disk here, if there is none. It is tried, as nothing else tells."""
    with tempfile.TemporaryDirectory(prefix="chaos-disk-") as directory:
        disk = Disk(Path(directory), 1)
        try:
            disk.mount()
        except MountRefusedError as error:
            return f"no tmpfs can be mounted: {error}"
        disk.unmount()
    return None


class Disk:
    """A tmpfs of `size` MiB at `directory`."""

    def __init__(self, directory: Path, size: int) -> None:
        self._directory = directory
        self._size = size

    @property
    def _ballast(self) -> Path:
        return self._directory / "ballast"

    def mount(self) -> None:
        """Raises `MountRefusedError`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self._size}m", "chaos", str(self._directory))

    def unmount(self) -> None:
        """Lazily: whoever still has a file open keeps it until its end."""
        _run("umount", "--lazy", str(self._directory))

    def fill(self) -> int:
        """Write ballast until nothing more fits; says how many bytes it took."""
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(_MIB))
            except OSError:
                return ballast.tell()

    def free(self) -> None:
        """Throw the ballast off."""
        self._ballast.unlink(missing_ok=True)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience(20), check=False)
    except OSError as error:
        raise MountRefusedError(str(error)) from error
    if done.returncode:
        raise MountRefusedError(done.stderr.strip())
