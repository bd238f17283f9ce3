"""Clocks that jump: a process under libfaketime reads its time through a file, which a nemesis rewrites."""

from __future__ import annotations

from pathlib import Path

_PLACES = ("/usr/lib", "/usr/local/lib", "/lib64", "/usr/lib64")
_LIBRARY = "libfaketimeMT.so.1"


def library() -> Path | None:
    """Return the path of libfaketime, in the variant for programs with threads; None if it is missing."""
    patterns = (f"faketime/{_LIBRARY}", f"*/faketime/{_LIBRARY}")
    found = (path for place in _PLACES for pattern in patterns for path in Path(place).glob(pattern))
    return next(found, None)


def missing() -> str | None:
    """Return the reason why clocks can't jump here, or None."""
    return None if library() else "libfaketime is not installed (Debian's package is `faketime`)"


class Clock:
    """One process's clock, and how far it is from the machine's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump(0)

    def jump(self, seconds: float) -> None:
        """Be so far ahead of the machine's clock from now on; the process notices within a second."""
        # Replaced as a whole: half a number would be another time.
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        new.replace(self._file)

    def environment(self, *, monotonic: bool = False) -> dict[str, str]:
        """Return the environment of a process. `monotonic`: fake also the clock that never jumps on a sound machine."""
        own = "0" if monotonic else "1"
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": own,
            "DONT_FAKE_MONOTONIC": own,
            # Its remedy for waits on condition variables makes each of mongod's last for seconds.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
