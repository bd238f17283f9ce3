"""A `mongod` of a test's own, with its own options, for what a shared one can't be made to do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from support.data_directory import data_directory
from support.waiting import patience


@contextmanager
def running_mongod(directory: Path, *options: str, initiated: bool = True) -> Iterator[int]:
    """A node with the test's options behind those of `eventsync dev`, while the block runs. Gives its port.

    Unless it is `initiated`, it is no replica set yet.
    """
    port, folder = mongod.free_port(), directory / f"mongod-{len(list(directory.iterdir()))}"
    folder.mkdir()
    with (folder / "log").open("wb") as log, data_directory(folder / "db") as data:
        command = [*_without(mongod.command(mongod.find_mongod(), data, port), options), *options]
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)  # noqa: PLW1509
        try:
            if initiated:
                mongod.initiate(port, timeout=patience(30))
            yield port
        finally:
            process.terminate()
            process.wait(patience(30))


def _without(command: list[str], options: tuple[str, ...]) -> list[str]:
    """Return the command without the options that are given again, which mongod refuses."""
    again = {word for word in options if word.startswith("--") and word != "--setParameter"}
    dropped = {place + step for place, word in enumerate(command) if word in again for step in (0, 1)}
    return [word for place, word in enumerate(command) if place not in dropped]
