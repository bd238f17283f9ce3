"""Every error that eventsync raises on purpose, as one tree with stable codes.

    EventsyncError
    ├── ConfigurationError      settings, command line, environment: fix and start again
    ├── Malformed               the request can't be understood
    ├── NotFound                no such document
    ├── NotTracked              no such tracked collection
    ├── Conflict                lost against other writers, or an idempotency key with another body
    ├── VersionMismatch         the document is not at the version that the caller expected
    ├── TooLarge                over a documented limit
    ├── Unreadable              what is stored of the past is damaged there
    ├── UnsupportedMediaType
    ├── PatchFailed             a well-formed patch that does not apply
    ├── TooComplex              more work than one request may cause
    ├── ResetRequired           a position that can't be continued from
    ├── BehindRetention         a point in the past that is not kept any more
    ├── Forbidden               refused by policy (origin)
    ├── RateLimited             too many of something; later is fine
    └── Unavailable             MongoDB or the log can't be used right now

`eventsync.server.problems` maps them to HTTP statuses and WebSocket close codes, in one table.
Driver errors are translated once, at the adapter that called the driver, with `from`. Their text is kept apart from
ours: `message` is for clients, `diagnosis` for logs and operators.
"""

from __future__ import annotations

import random
from typing import ClassVar, Final, Self

__all__ = [
    "BehindRetention",
    "ConfigurationError",
    "Conflict",
    "EventsyncError",
    "Forbidden",
    "Malformed",
    "NotFound",
    "NotTracked",
    "PatchFailed",
    "RateLimited",
    "ResetRequired",
    "TooComplex",
    "TooLarge",
    "Unavailable",
    "Unreadable",
    "UnsupportedMediaType",
    "VersionMismatch",
]


MAX_MESSAGE: Final = 2048
"""Longest message, in characters: most quote what they are about, which may be as long as a request."""


def shortened(text: str, most: int = MAX_MESSAGE) -> str:
    """Leave out the middle of a text that is too long."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class EventsyncError(Exception):
    """Base of the tree. `code` is stable: programs may branch on it, messages are for people."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    said: str = ""
    """The words of a driver or a library about the cause. They may name hosts, commands and stored values."""

    @property
    def message(self) -> str:
        """The text for a person, one sentence. It may go to a client: nothing in it but our own words."""
        return shortened(str(self.args[0])) if self.args else self.code

    def because(self, said: str) -> Self:
        """Keep the words of a driver or a library for `diagnosis`."""
        self.said = said
        return self

    @property
    def diagnosis(self) -> str:
        """The message and its cause, for logs and operators. Never for clients."""
        return f"{self.message} ({shortened(self.said)})" if self.said else self.message

    def __str__(self) -> str:
        """The diagnosis: a traceback is for operators."""
        return self.diagnosis


class ConfigurationError(EventsyncError):
    """A setting, an option or the machine is wrong; the message names the remedy."""

    code = "configuration"


class Malformed(EventsyncError):
    """The request can't be understood: bad JSON, bad id, unknown message, reserved field."""

    code = "malformed"


class NotFound(EventsyncError):
    """The document does not exist."""

    code = "not_found"


class NotTracked(EventsyncError):
    """The collection is not tracked by this deployment."""

    code = "not_tracked"


class Conflict(EventsyncError):
    """The write lost against concurrent writers until its retry bound, or contradicts an earlier one.

    `lasting`: what is in the way is there to stay, and no later attempt succeeds. `existing` is its id, if it is known.
    """

    code = "conflict"
    retryable = True

    def __init__(self, message: str, *, existing: str | None = None, lasting: bool = False) -> None:
        super().__init__(message)
        self.existing = existing
        self.lasting = lasting or existing is not None


class VersionMismatch(EventsyncError):
    """The caller expected another state. `current` is the version now; None when there is no document.

    `etag` is the entity tag now, where it is known.
    """

    code = "version_mismatch"

    def __init__(self, message: str, *, current: int | None, etag: str | None = None) -> None:
        super().__init__(message)
        self.current = current
        self.etag = etag


class TooLarge(EventsyncError):
    """The body, message, patch or result is over its documented limit."""

    code = "too_large"


class Unreadable(EventsyncError):
    """A stored part of the past is missing or damaged. The server's log says which; only an operator can mend it."""

    code = "damaged"


class UnsupportedMediaType(EventsyncError):
    """The content type is not one that this resource takes."""

    code = "unsupported_media_type"


class PatchFailed(EventsyncError):
    """The patch is well formed and does not apply to the document; nothing was changed."""

    code = "patch_failed"


class TooComplex(EventsyncError):
    """The request takes more work than one request may cause, however few bytes it has; nothing was changed."""

    code = "too_complex"


class ResetRequired(EventsyncError):
    """A position can't be continued from. `reason` is one of the protocol's reset reasons."""

    code = "reset"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BehindRetention(EventsyncError):
    """What was at this point is not kept any more, or never was. `since` is the position from which on it is known."""

    code = "gone"

    def __init__(self, message: str, *, since: str) -> None:
        super().__init__(message)
        self.since = since


class Forbidden(EventsyncError):
    """Refused by policy, whatever the request says."""

    code = "forbidden"


class RateLimited(EventsyncError):
    """Over a bound on concurrent use; the same request may succeed later."""

    code = "rate_limited"
    retryable = True


class Unavailable(EventsyncError):
    """MongoDB, or the event log in it, can't be used right now. `retry_after` is in seconds."""

    code = "unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @classmethod
    def busy(cls, message: str, least: float, most: float) -> Self:
        """Return the error for one of many, each of which is told a time of its own: `least` to `most` seconds."""
        return cls(message, retry_after=round(random.uniform(least, most), 3))


_PUBLIC: tuple[type[EventsyncError], ...] = (
    Malformed,
    NotFound,
    NotTracked,
    Conflict,
    VersionMismatch,
    TooLarge,
    Unreadable,
    UnsupportedMediaType,
    PatchFailed,
    TooComplex,
    ResetRequired,
    BehindRetention,
    Forbidden,
    RateLimited,
    Unavailable,
)


def public_error(error: EventsyncError) -> EventsyncError:
    """Return the error that a client is told of: a failure of our own (damage, a bug) stands in the log alone."""
    return error if isinstance(error, _PUBLIC) else EventsyncError("the server failed; its log says why")
