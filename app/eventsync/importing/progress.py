"""The progress of an import, in a file beside the imported one, so that an interrupted import can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import BinaryIO, Final

from eventsync.errors import ConfigurationError
from eventsync.importing.items import Mode
from eventsync.importing.records import Place

_INTERVAL: Final = 1.0
"""Seconds between two writes of the file."""

_AHEAD: Final = 32 * 1024 * 1024
"""Bytes that may be sent before the file has to be written again."""

_COMPARED: Final = 4096
"""Bytes at the beginning of the file, and before the place to resume at, that must be the same as before."""


@dataclass(frozen=True, slots=True)
class ImportJob:
    """An import: into which collection of which target, and in which mode."""

    target: str
    collection: str
    mode: Mode


@dataclass(slots=True)
class State:
    """The progress of an import.

    All documents before `done` have been answered, `written` and `failed` of them. None behind the offset `sent` was
    sent. `seed` gives ids to documents without one.
    """

    done: Place = field(default_factory=Place)
    sent: int = 0
    written: int = 0
    failed: int = 0
    seed: bytes = field(default_factory=lambda: int(time.time()).to_bytes(4) + os.urandom(8))


class ProgressFile:
    """The progress of `job` on `source`, kept at `path`; None keeps nothing."""

    def __init__(self, path: Path | None, source: BinaryIO, job: ImportJob) -> None:
        self._path = path
        self._source = source
        self._job = job
        self._next = 0.0
        self._sent = 0

    def begin(self, *, resume: bool) -> State:
        """Return the state to begin with. Raises `ConfigurationError` if the file does not fit."""
        if self._path is None or not self._path.exists():
            if resume:
                raise ConfigurationError(
                    f"there is nothing to resume: {self._path or 'no progress file'} does not exist"
                )
            return State()
        if not resume:
            raise ConfigurationError(f"{self._path} is of an interrupted import: --resume continues it; else remove it")
        return self._read(self._path)

    def _read(self, path: Path) -> State:
        try:
            found = json.loads(path.read_text())
            job, digest = found.pop("job"), found.pop("digest")
            found["done"], found["seed"] = Place(**found["done"]), bytes.fromhex(found["seed"])
            state = State(**found)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(f"{path} can't be read as the progress of an import: {error}") from error
        for part in fields(ImportJob):
            if job.get(part.name) != (now := getattr(self._job, part.name)):
                raise ConfigurationError(
                    f"{path} is of an import with another {part.name}: {job.get(part.name)}, not {now}"
                )
        if digest != self._digest(state.done.offset):
            raise ConfigurationError(f"the file has changed since {path} was written")
        self._sent = state.sent
        return state

    def before_sending(self, state: State, end: int) -> None:
        """Record that documents up to the offset `end` may be sent."""
        state.sent = max(state.sent, end)
        if end > self._sent:
            self._write(state, end + _AHEAD)

    def advanced(self, state: State) -> None:
        """Record the state, if it was not recorded just before."""
        if time.monotonic() >= self._next:
            self.save(state)

    def save(self, state: State) -> None:
        """Record the state."""
        self._write(state, max(self._sent, state.sent))

    def remove(self) -> None:
        """Remove the file of an import that has come to its end."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, state: State, sent: int) -> None:
        self._next = time.monotonic() + _INTERVAL
        self._sent = sent
        if self._path is None:
            return
        content = asdict(state) | {"sent": sent, "seed": state.seed.hex(), "job": asdict(self._job)}
        content["digest"] = self._digest(state.done.offset)
        new = self._path.with_name(self._path.name + ".new")
        try:
            # A file that is lost with the machine would make sent documents look new.
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise ConfigurationError(
                f"{self._path} can't be written ({error.strerror}); --progress names another"
            ) from error

    def _digest(self, offset: int) -> str:
        """Return a digest of the file's beginning and of what is before `offset`, without moving its position."""
        number = self._source.fileno()
        head = os.pread(number, min(offset, _COMPARED), 0)
        tail = os.pread(number, min(offset, _COMPARED), max(0, offset - _COMPARED))
        return hashlib.sha256(head + tail).hexdigest()
