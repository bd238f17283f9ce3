"""The data directory of `eventsync dev`, and the lock that lets only one process use it at a time.

<data-dir>/mongodb/          mongod's data
<data-dir>/mongod.log        mongod's log; mongod.log.old is that of the previous run
<data-dir>/mongod.port       mongod's port, for the next run
<data-dir>/demo              the progress of loading the demo data
<data-dir>/archive/          segments of old events
<data-dir>/key               the service key of whoever runs it, once there are rules
<data-dir>/origin            an empty file that is never changed; origin.json: its inode and time of change
<data-dir>/eventsync.toml    while `dev` runs: the settings by which other commands find it
<data-dir>/lock              locked while `dev` runs
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from eventsync import running_dev
from eventsync.dev.mongod import free_port
from eventsync.dev.port import is_free
from eventsync.domain.access.principal import OPERATOR
from eventsync.errors import ConfigurationError
from eventsync.stores.access.keys import split
from eventsync.stores.stores import Credentials

_OURS: Final = ("mongodb", "mongod.log", "mongod.log.old", "mongod.port", "demo", "archive", "lock")


@dataclass(frozen=True, slots=True)
class DataDir:
    """An open data directory. `path` is absolute."""

    path: Path

    @property
    def mongodb(self) -> Path:
        return self.path / "mongodb"

    @property
    def mongod_log(self) -> Path:
        return self.path / "mongod.log"

    @property
    def demo(self) -> Path:
        return self.path / "demo"

    @property
    def archive(self) -> Path:
        return self.path / "archive"

    @property
    def key(self) -> Path:
        return self.path / "key"

    @property
    def config(self) -> Path:
        return self.path / "eventsync.toml"

    def is_copy(self) -> bool:
        """Return True if the files are copies of those that `settle` recorded, for example a restored backup.

        A copy of a file has another inode and another time of change, whatever else of it is preserved.
        """
        try:
            known = json.loads((self.path / "origin.json").read_text())
            there = (self.path / "origin").stat()
        except (OSError, ValueError):
            return False  # The directory is new, or of an earlier version: nothing is recorded.
        return bool(known != _identity(there))

    def settle(self) -> None:
        """Record these files as the originals."""
        if not (self.path / "origin").exists():
            (self.path / "origin").touch(mode=0o600)
        identity = _identity((self.path / "origin").stat())
        (self.path / "origin.json").write_text(json.dumps(identity) + "\n")

    def mongod_port(self) -> int:
        """Return the port of the previous run if it is free, else another one, and record it."""
        file = self.path / "mongod.port"
        kept = file.read_text().strip() if file.is_file() else ""
        if kept.isdecimal() and 0 < int(kept) < 65536 and is_free("127.0.0.1", int(kept)):
            return int(kept)
        port = free_port()
        file.write_text(f"{port}\n")
        return port

    def write_config(self, values: Mapping[str, str]) -> None:
        """Write settings for commands in another terminal. Only the owner may read them: a URI may hold a password."""
        # A JSON string is a TOML string.
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items()]
        self.config.unlink(missing_ok=True)
        self.config.touch(mode=0o600)
        self.config.write_text(
            f"# Written by the `eventsync dev` that runs here; removed when it ends.\n{''.join(lines)}"
        )
        running_dev.record(self.config)


def _identity(file: os.stat_result) -> dict[str, int]:
    return {"inode": file.st_ino, "changed": file.st_ctime_ns}


@contextmanager
def opened(path: Path) -> Iterator[DataDir]:
    """Make the directory if it does not exist, and lock it. Raises `ConfigurationError` if it can't be used."""
    directory = DataDir(path.absolute())
    with ExitStack() as stack:
        try:
            _make_private(directory.path)
            _hold(stack.enter_context((directory.path / "lock").open("a+")), directory)
            _prepare(directory)
        except OSError as error:
            raise ConfigurationError(
                f"the data directory {directory.path} can't be used ({error.strerror or error}); "
                "choose another with --data-dir"
            ) from error
        stack.callback(directory.config.unlink, missing_ok=True)
        stack.callback(running_dev.forget)
        yield directory


def _make_private(directory: Path) -> None:
    """Make the directory, readable by the user alone; restrict one that an earlier version has made, and its files.

    A directory without our lock is left as it is: it may hold other files.
    """
    if not directory.exists():
        directory.mkdir(parents=True)
        directory.chmod(0o700)
    elif (directory / "lock").exists():
        for path in (directory, *(directory / name for name in _OURS)):
            if not path.is_symlink() and path.exists() and (mode := path.stat().st_mode) & 0o077:
                path.chmod(mode & 0o700)


def _prepare(directory: DataDir) -> None:
    directory.config.unlink(missing_ok=True)  # A `dev` that was killed has left it.
    directory.mongodb.mkdir(mode=0o700, exist_ok=True)
    (directory.path / ".gitignore").write_text("*\n")
    if directory.mongod_log.is_file():
        directory.mongod_log.replace(directory.path / "mongod.log.old")


def _hold(lock: IO[str], directory: DataDir) -> None:
    """Lock the file as long as it is open. The kernel releases the lock even after kill -9."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"another `eventsync dev`{_holder(lock)} uses {directory.path}; "
            "stop it, or choose another directory with --data-dir"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    process = lock.read().strip()
    return f" (process {process})" if process.isdecimal() else ""


class OwnKey:
    """An operator's service key for whoever runs `eventsync dev` under rules, in a file that only the user may read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    async def ensure(self, credentials: Credentials) -> str:
        """Return the key. Make another one if it was revoked or belongs to other data. Raises `Unavailable`."""
        text = self.file.read_text().strip() if self.file.is_file() else ""
        if (parts := split(text)) is not None:
            key = await credentials.keys.find(parts[0])
            if key is not None and key.revoked is None and key.is_proven_by(parts[1]):
                return text
        roles, claims = frozenset({OPERATOR}), {"sub": "dev"}
        _, text = await credentials.keys.create("eventsync dev", roles=roles, claims=claims, expires=None)
        self.file.unlink(missing_ok=True)
        self.file.touch(mode=0o600)
        self.file.write_text(f"{text}\n")
        return text

    def hints(self, url: str, collection: str | None) -> list[str]:
        """Return the commands that use the key, none of which has its text: terminals keep what they have shown."""
        read = f"$(cat {json.dumps(str(self.file))})"
        path = "/v1/collections" if collection is None else f"/v1/collections/{collection}/documents"
        return [
            f'rules are in force: sign in to the page with the key in {self.file}, or open "{url}/#key={read}"',
            f'read    curl -H "Authorization: Bearer {read}" {url}{path}',
        ]
