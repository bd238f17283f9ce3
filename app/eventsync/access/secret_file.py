"""The shared secret of an issuer, in a file that is read again when it has changed."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final

from joserfc.jwk import Key, OctKey

from eventsync.concurrency.single_flight import SingleFlight
from eventsync.errors import ConfigurationError, Unavailable
from eventsync.logging import Alarms

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

CHECKED_FOR: Final = 1.0
"""Seconds between two looks at a file."""

MIN_SECRET: Final = 32
"""Fewest bytes of a secret: those of SHA-256 (RFC 7518 section 3.2)."""

MAX_SECRET: Final = 4096

_Version = tuple[int, int, int]


def read_secret(path: str) -> OctKey:
    """Return the secret in a file, without the line end behind it, as a key. Raises `ConfigurationError`."""
    try:
        with open(path, "rb", opener=_opened) as file:
            _check_mode(path, os.fstat(file.fileno()))
            content = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise ConfigurationError(f"the secret file {path} can't be read: {error.strerror}") from error
    secret = content.rstrip(b"\r\n")
    if not MIN_SECRET <= len(secret) <= MAX_SECRET:
        raise ConfigurationError(
            f"the secret file {path} has {MIN_SECRET} to {MAX_SECRET} bytes; this has {len(secret)}"
        )
    try:
        OctKey.import_key(content)  # the last byte of a certificate may look like a line end
        return OctKey.import_key(secret)
    except Exception as error:  # whatever a parser of keys finds in it, it is one
        raise ConfigurationError(
            f"the secret file {path} has a public key or certificate, which anyone may know: give it random bytes"
        ) from error


def _opened(path: str, flags: int) -> int:
    # A pipe would block the reader until somebody writes.
    return os.open(path, flags | os.O_NONBLOCK)


def _check_mode(path: str, status: os.stat_result) -> None:
    """Check that only this user can read the file, or a group of it if root has made it."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"the secret file {path} is no regular file")
    others = 0o027 if status.st_uid == 0 and os.geteuid() != 0 else 0o077
    if status.st_mode & others:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigurationError(f"the secret file {path} is open to others (mode {mode:04o}): chmod 600 {path}")


class SecretFile:
    """A `KeySource` of one secret. A file that can't be read any more closes: its tokens are refused until it can."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.generation = 0
        self._path = path
        self._clock = clock
        self._checked = -CHECKED_FOR
        self._version: _Version | None = None
        self._keys: Sequence[Key] = ()
        self._reads: SingleFlight[None] = SingleFlight()

    @property
    def is_fresh(self) -> bool:
        return self._clock() - self._checked < CHECKED_FOR

    async def check(self) -> None:
        await self._reads.fetch(None, self._check)

    async def keys(self, kid: str | None) -> Sequence[Key]:  # noqa: ARG002 - a shared secret has no other name
        """Return the secret. Raises `Unavailable` while it can't be read."""
        if not self.is_fresh:
            await self.check()
        if not self._keys:
            raise Unavailable("tokens can't be verified: the server's log has the reason", retry_after=CHECKED_FOR)
        return self._keys

    async def _check(self) -> None:
        try:
            version = await asyncio.to_thread(_version, self._path)
            if version != self._version or not self._keys:
                self._replace(version, [await asyncio.to_thread(read_secret, self._path)])
        except ConfigurationError as error:
            _alarms.log(error.diagnosis)
            self._replace(None, [])
        self._checked = self._clock()

    def close(self) -> None:
        """Do nothing: there is nothing in the background."""

    def _replace(self, version: _Version | None, keys: Sequence[Key]) -> None:
        self._version, self._keys = version, keys
        self.generation += 1


def _version(path: str) -> _Version:
    try:
        found = os.stat(path)  # noqa: PTH116 - as `open` above, in a thread of its own
    except OSError as error:
        raise ConfigurationError(f"the secret file {path} can't be read: {error.strerror}") from error
    # A change of its mode counts, too.
    return found.st_ino, found.st_ctime_ns, found.st_size
