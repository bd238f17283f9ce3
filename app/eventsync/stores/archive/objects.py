"""Object storage: immutable objects by name, in S3, GCS, Azure, or a directory of this machine.

obstore does the access. It takes keys, region and endpoint of a cloud store from the environment, by the names that it
documents (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL` …). No eventsync setting contains a credential.

Sources: https://developmentseed.org/obstore/latest/authentication/ ,
https://docs.rs/object_store/latest/object_store/
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from eventsync.domain.replay import Damaged
from eventsync.errors import ConfigurationError, Unavailable
from eventsync.urls import bare, without_secrets

NOWHERE: Final = "none"
"""The URL that switches object storage off."""

IMMUTABLE: Final = "public, max-age=31536000, immutable"
CONTENT_TYPE: Final = "application/vnd.eventsync.segment"

_RETRIES: Final[Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
"""The library limits each attempt to 30 s. Passing client options here would override those in the environment."""


_DENIED: Final = (PermissionDeniedError, UnauthenticatedError, PermissionError, NotADirectoryError)
_DENIED_TEXT: Final = ("os error 13", "os error 20", "os error 30")
"""EACCES, ENOTDIR and EROFS in the library's errors about a directory."""


class ObjectMissing(Damaged):
    """An expected object is missing."""


class StorageRefused(Unavailable):
    """The storage refuses the request: no permission, no such bucket. A retry does not help."""


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """An object in a listing. `modified` is by the storage's clock."""

    path: str
    size: int
    modified: datetime


class Objects:
    """One store, or a prefix of one.

    Every method raises `Unavailable` if the store cannot be reached, and `StorageRefused` if it refuses. Segments are
    written once and never overwritten. When `put` returns, the object is durable and visible as a whole.
    """

    def __init__(self, url: str) -> None:
        """Check the URL without connecting. Raises `ConfigurationError` for an invalid one."""
        self.shown = bare(url)
        """The URL without user, password and query, for messages."""
        self._directory = _directory(url)
        self._store: ObjectStore | None = None if self._directory else _cloud(url, self.shown)

    @classmethod
    def of(cls, url: str) -> Objects | None:
        """Return the store for a setting, or None for "" and `none`."""
        return None if url in {"", NOWHERE} else cls(url)

    @property
    def absent(self) -> bool:
        """True if the directory is missing. False for a store of another kind."""
        return self._directory is not None and not os.path.lexists(self._directory)

    @property
    def loose(self) -> str | None:
        """A warning if others than owner and group may enter the directory, or None."""
        if self._directory is None or not self._directory.is_dir() or not self._directory.stat().st_mode & 0o007:
            return None
        return (
            f"everybody on this machine may enter the archive {self._directory}; `chmod o= {self._directory}` ends that"
        )

    @property
    def is_there(self) -> bool:
        """True if the directory exists. Always True for a cloud store."""
        return self._directory is None or self._directory.is_dir()

    async def put(self, path: str, data: bytes) -> None:
        """Store an object. Also raises `Unavailable` if one of that name exists."""
        await self._write(path, data, "create", {"Content-Type": CONTENT_TYPE, "Cache-Control": IMMUTABLE})

    async def replace(self, path: str, data: bytes) -> None:
        """Store or overwrite an object that is no segment."""
        await self._write(path, data, "overwrite", None)

    async def _write(self, path: str, data: bytes, mode: Literal["create", "overwrite"], attributes: Any) -> None:
        """Write an object, in a cloud store with `attributes`; a directory has none."""
        with _translated("the archive can't be written to", f"{path} can't be written to {self.shown}", missing=True):
            if self._directory is None:
                await obstore.put_async(self._opened(), path, data, mode=mode, attributes=attributes)
                return
            file = self._directory / path
            await asyncio.to_thread(_make_folder, self._directory, file.parent)
            await obstore.put_async(self._opened(), path, data, mode=mode)
            # The library does not flush the file to the disk.
            await asyncio.to_thread(_sync, self._directory, file)

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return up to `length` bytes of an object from `offset` on. Raises `ObjectMissing`."""
        with _translated("the archive can't be read", f"{path} can't be read from {self.shown}"):
            try:
                if length is None:
                    response = await obstore.get_async(self._opened(), path)
                    return bytes(await response.bytes_async())[offset:]
                return bytes(await obstore.get_range_async(self._opened(), path, start=offset, length=length))
            except FileNotFoundError as error:
                raise ObjectMissing(f"{path} is not in the archive").because(self.shown) from error

    async def list(self, prefix: str) -> AsyncGenerator[ObjectEntry]:
        """Yield the objects in the folder `prefix`, in no particular order."""
        with _translated("the archive can't be listed", f"{self.shown} can't be listed"):
            if self._directory is not None and not (self._directory / prefix).is_dir():
                return
            async for batch in obstore.list(self._opened(), prefix=prefix):
                for item in batch:
                    yield ObjectEntry(item["path"], item["size"], item["last_modified"])

    async def remove(self, path: str) -> None:
        """Remove an object, if it exists."""
        with _translated("the archive can't be written to", f"{path} can't be removed from {self.shown}"):
            try:
                await obstore.delete_async(self._opened(), path)
            except FileNotFoundError:
                return

    def _opened(self) -> ObjectStore:
        if self._store is None:
            # The directory must exist, and a reader does not create it. So it is opened at the first use.
            self._store = LocalStore(self._directory)
        return self._store


def _directory(url: str) -> Path | None:
    """Return the directory that `url` names, or None for a URL of another kind."""
    parts = urlsplit(url)
    if "://" in url and parts.scheme != "file":
        return None
    directory = Path(unquote(parts.path) if "://" in url else url)
    if not directory.is_absolute() or ("://" in url and parts.netloc not in {"", "localhost"}):
        raise ConfigurationError(f"archive_url {bare(url)!r} can't be used: a directory is given by its whole path, /…")
    return directory


def _cloud(url: str, shown: str) -> ObjectStore:
    try:
        return from_url(url, retry_config=_RETRIES)
    except (BaseError, ValueError) as error:
        raise ConfigurationError(
            f"archive_url {shown!r} can't be used: {without_secrets(_short(error), url)}"
        ) from error


def _make_folder(root: Path, folder: Path) -> None:
    """Create the folders down to `folder`. Only the owner may enter them, and the group if it may enter `root`."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = 0o700 | (root.stat().st_mode & 0o050)
    for made in reversed([folder, *folder.parents]):
        if root in made.parents and not made.exists():
            made.mkdir(exist_ok=True)
            made.chmod(mode)


def _sync(root: Path, file: Path) -> None:
    """Flush a file and its folders to the disk. Only the owner may read the file, and the group if it may read
    `root`.
    """
    # A file is durable only once its folder is, and a new folder only once its parent is. So this goes up to the root.
    file.chmod(0o600 | (root.stat().st_mode & 0o040))
    while True:
        opened = os.open(file, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
        if file == root:
            return
        file = file.parent


@contextmanager
def _translated(doing: str, detail: str, *, missing: bool = False) -> Iterator[None]:
    """Translate the library's errors. `detail` is the detail for operators, which clients never see.

    With `missing`, a missing file is a refusal too.
    """
    try:
        yield
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        denied = isinstance(error, _DENIED) or (missing and isinstance(error, FileNotFoundError))
        lasting = denied or any(text in str(error) for text in _DENIED_TEXT)
        kind = StorageRefused if lasting else Unavailable
        raise kind(doing).because(f"{detail}: {_short(error)}") from error


def _short(error: BaseException) -> str:
    """Return the first line of the library's message. The others describe its internal structures."""
    return str(error).split("\n")[0][:300] or type(error).__name__
