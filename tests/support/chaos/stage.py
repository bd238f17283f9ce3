"""Stage of a run. A run that fails or is ended from outside says what it waited for."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path


class Stage:
    """The present stage of the run that `command` begins; all of them are in `stages.log` in `directory`."""

    def __init__(self, command: str, directory: Path) -> None:
        self._command = command
        self._file = directory / "stages.log"
        self._text = "nothing yet"
        self._since = time.monotonic()

    def enter(self, text: str) -> None:
        """The next stage begins: `text` is what is waited for."""
        self._text, self._since = text, time.monotonic()
        with self._file.open("a") as lines:
            lines.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} {text}\n")

    def __str__(self) -> str:
        return f"{self._command}\nwaited {time.monotonic() - self._since:.0f} s for: {self._text}"
