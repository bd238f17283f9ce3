"""The output of `eventsync dev`: its own lines and its children's, each after the name of its process.

server │ 2026-11-23 16:05:13.123 INFO    eventsync.server.uvicorn_server: listening on http://127.0.0.1:8000
"""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.console import Console
from rich.text import Text

_COLOURS: Final = {"server": "cyan", "worker": "magenta", "mongod": "green", "dev": "bold blue"}
_WIDTH: Final = 6


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise instead of exiting at once, as rich does: the children must be ended first."""
        raise BrokenPipeError


class Terminal:
    """Prints whole lines. Output to a closed terminal (SIGHUP, `| head`) is discarded."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _Console(highlight=False)
        self._gone = False

    def say(self, text: str, style: str = "") -> None:
        """Print a line of the supervisor."""
        self.line("dev", text, style)

    def line(self, name: str, text: str, style: str = "") -> None:
        """Print a line of the child `name`."""
        clean = "".join(char if char.isprintable() else " " for char in text)
        prefix = (f"{name:<{_WIDTH}} │ ", _COLOURS.get(name, ""))
        self._print(Text.assemble(prefix, (clean, style)))

    def _print(self, text: Text) -> None:
        if self._gone:
            return
        try:
            self._console.print(text, soft_wrap=True)
        except OSError:
            self._gone = True
            # Otherwise the interpreter's last flush would fail as well and change the exit code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
