"""Every error that eventsync raises on purpose, as one tree with stable codes.

    EventsyncError
    ├── ConfigurationError      settings, command line, environment: fix and start again
    │   └── IncompatibleFormat  what is stored has a format that this version of eventsync does not know
    ├── Malformed               the request can't be understood
    │   ├── InvalidPredicate    a filter that is not evaluated here; the message names the place, the reason, the remedy
    │   └── IndexNeeded         a filter or a sort without an index
    ├── NotFound                no such document
    ├── NotTracked              no such tracked collection
    ├── UnknownShape            no such declared shape
    ├── Conflict                lost against other writers, or an idempotency key with another body
    ├── VersionMismatch         the document is not at the version that the caller expected
    ├── TooLarge                over a documented limit
    ├── Unreadable              stored history is missing or damaged
    ├── UnsupportedMediaType
    ├── PatchFailed             a well-formed patch that does not apply
    ├── TooComplex              more work than one request may cause
    ├── ResetRequired           a position that can't be continued from
    ├── BehindRetention         a point in the past that is no longer kept
    ├── Unauthenticated         no credential, or one that is not accepted
    ├── Forbidden               refused by policy (origin, rules)
    ├── RateLimited             over a limit on concurrent use; try again later
    └── Unavailable             MongoDB or the log can't be used at the moment
        ├── NotAttempted        an operation of a batch that was not begun in time
        └── Overloaded          more work in progress than is done in time; nothing was done

`eventsync.server.problems` maps them to HTTP statuses and WebSocket close codes, in one table.
Driver errors are translated once, by the adapter that called the driver, with `raise … from`. Their text is kept
separate: `message` is for clients, `diagnosis` for logs and operators.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Final, Self

__all__ = [
    "BehindRetention",
    "ConfigurationError",
    "Conflict",
    "EventsyncError",
    "Forbidden",
    "IncompatibleFormat",
    "IndexNeeded",
    "InvalidPredicate",
    "Malformed",
    "NotAttempted",
    "NotFound",
    "NotTracked",
    "Overloaded",
    "PatchFailed",
    "RateLimited",
    "ResetRequired",
    "TooComplex",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnknownShape",
    "Unreadable",
    "UnsupportedMediaType",
    "VersionMismatch",
]


MAX_MESSAGE: Final = 2048
"""Longest message, in characters. Most messages quote input, which may be as long as a request."""


def shortened(text: str, max_length: int = MAX_MESSAGE) -> str:
    """Return `text` without its middle if it is too long."""
    if len(text) <= max_length:
        return text
    half = (max_length - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


class EventsyncError(Exception):
    """Base of the tree. `code` is stable: programs may branch on it, messages are for people."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    """The exit code of a command or process that it ends. Stable, too."""

    public: ClassVar[bool] = False
    """True if a client may see it. All others (damage, a bug) are described only in the server's log."""

    said: str = ""
    """The text of the driver's or library's error. It may name hosts, commands and stored values."""

    @property
    def message(self) -> str:
        """The text for people, one sentence in our own words. It is safe to send to a client."""
        return shortened(str(self.args[0])) if self.args else self.code

    def because(self, said: str) -> Self:
        """Attach the text of a driver's or library's error to the `diagnosis`."""
        self.said = said
        return self

    @property
    def diagnosis(self) -> str:
        """The message and its cause, for logs and operators. Never for clients."""
        return f"{self.message} ({shortened(self.said)})" if self.said else self.message

    def __str__(self) -> str:
        """Return the diagnosis, because tracebacks are for operators."""
        return self.diagnosis


class ConfigurationError(EventsyncError):
    """A setting, an option or the machine is wrong; the message names the remedy."""

    code = "configuration"
    exit_code = 2


class IncompatibleFormat(ConfigurationError):
    """The stored data have a format that this version of eventsync does not know. Nothing was written."""

    code = "incompatible_format"
    # EX_DATAERR of sysexits.h. A mongod never ends with it, which a supervisor may run beside servers.
    exit_code = 65


class Malformed(EventsyncError):
    """The request can't be understood: bad JSON, bad id, unknown message, reserved field."""

    code = "malformed"
    public = True


class InvalidPredicate(Malformed):
    """A filter, a declared shape or a value for its parameters is refused.

    `place` is the place in the filter, such as `$or[1].owner.$gt`, and `reason` names the remedy, too.
    """

    code = "invalid_predicate"
    public = True

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.place = place
        self.reason = reason

    def within(self, place: str) -> InvalidPredicate:
        """Return the same error for a filter that is part of something larger."""
        return InvalidPredicate(f"{place}.{self.place}" if self.place else place, self.reason)


class IndexNeeded(Malformed):
    """A filter or a sort that no index serves: MongoDB would read the whole collection. The message names an index."""

    code = "index_needed"
    public = True


class NotFound(EventsyncError):
    """The document does not exist."""

    code = "not_found"
    public = True


class NotTracked(EventsyncError):
    """The collection is not tracked by this deployment."""

    code = "not_tracked"
    public = True


class UnknownShape(EventsyncError):
    """No shape of this name is declared, or the declared one can't be served."""

    code = "unknown_shape"
    public = True


class Conflict(EventsyncError):
    """The write lost against concurrent writers up to its retry limit, or contradicts an earlier write.

    With `lasting`, no later attempt will succeed. `existing` is the id of the conflicting document, if it is known.
    """

    code = "conflict"
    public = True
    retryable = True

    def __init__(self, message: str, *, existing: str | None = None, lasting: bool = False) -> None:
        super().__init__(message)
        self.existing = existing
        self.lasting = lasting or existing is not None


class VersionMismatch(EventsyncError):
    """The caller expected another state. `current` is the current version, or None if there is no document.

    `etag` is the current entity tag, if it is known.
    """

    code = "version_mismatch"
    public = True

    def __init__(self, message: str, *, current: int | None, etag: str | None = None) -> None:
        super().__init__(message)
        self.current = current
        self.etag = etag


class TooLarge(EventsyncError):
    """The body, message, patch or result is over its documented limit."""

    code = "too_large"
    public = True


class Unreadable(EventsyncError):
    """A part of the stored history is missing or damaged. The server's log names it; only an operator can repair it."""

    code = "damaged"
    public = True


class UnsupportedMediaType(EventsyncError):
    """The resource does not accept this content type."""

    code = "unsupported_media_type"
    public = True


class PatchFailed(EventsyncError):
    """The patch is well formed but does not apply to the document; nothing was changed."""

    code = "patch_failed"
    public = True


class TooComplex(EventsyncError):
    """The request takes more work than one request may cause; nothing was changed."""

    code = "too_complex"
    public = True


class ResetRequired(EventsyncError):
    """A position can't be continued from. `reason` is one of the protocol's reset reasons.

    `oldest` and `head` are the positions between which the log can be continued from, where they are known.
    """

    code = "reset"
    public = True

    def __init__(self, reason: str, message: str, *, oldest: str | None = None, head: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.oldest = oldest
        self.head = head


class BehindRetention(EventsyncError):
    """History at this point is not kept, or never was. `since` is the position from which on it is known."""

    code = "gone"
    public = True

    def __init__(self, message: str, *, since: str) -> None:
        super().__init__(message)
        self.since = since


class Unauthenticated(EventsyncError):
    """The request has no credential, or one that is not accepted. `reason` is a stable word: one of `REASONS`.

    `retry_after`: the seconds until a new credential is accepted; None if that is at once. `subject` and `credential`
    name for the log, and for nobody else, a credential that is genuine and was refused all the same.
    """

    code = "unauthenticated"
    public = True

    REASONS: ClassVar[Mapping[str, str]] = {
        "token_missing": "a credential is needed here: Authorization: Bearer …",
        "token_expired": "the credential has expired",
        "token_invalid": "the credential is not valid",
        "token_revoked": "the credential was revoked",
        "subject_changed": "a live connection keeps its subject: connect again",
    }

    def __init__(
        self,
        reason: str,
        message: str = "",
        *,
        retry_after: float | None = None,
        subject: str = "",
        credential: str = "",
    ) -> None:
        super().__init__(message or self.REASONS[reason])
        self.reason = reason
        self.retry_after = retry_after
        self.subject = subject
        self.credential = credential


class Forbidden(EventsyncError):
    """Refused by policy, whatever the request says. `reason` is a word for the log and the metric."""

    code = "forbidden"
    public = True

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class RateLimited(EventsyncError):
    """A limit on concurrent use is reached; the same request may succeed later."""

    code = "rate_limited"
    public = True
    retryable = True


class Unavailable(EventsyncError):
    """MongoDB, or the event log in it, can't be used at the moment. `retry_after` is in seconds."""

    code = "unavailable"
    public = True
    retryable = True

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @classmethod
    def busy(cls, message: str, min_wait: float, max_wait: float) -> Self:
        """Return an error with a random `retry_after`, so that many refused clients do not return at once."""
        return cls(message, retry_after=round(random.uniform(min_wait, max_wait), 3))


class NotAttempted(Unavailable):
    """The operation was not begun before the deadline of its batch: nothing was written."""

    code = "not_attempted"

    def __init__(
        self, message: str = "the batch took too long: this operation was not begun, nothing was written"
    ) -> None:
        super().__init__(message)


class Overloaded(Unavailable):
    """There is more work in progress than is done in time. This was refused at once, and changed nothing."""

    code = "overloaded"


def public_error(error: EventsyncError) -> EventsyncError:
    """Return the error to send to a client in place of `error`, which stays as it is if it is `public`."""
    return error if error.public else EventsyncError("the server failed; its log says why")
