"""Translation of the MongoDB driver's errors into ours. No other module does this.

Reads and bookkeeping use `translated`. Writes for a client use `translated_write`, which distinguishes writes that
MongoDB refused, writes that were never sent, and writes with an unknown outcome.

The message contains no driver text, which names commands, hosts, sessions and stored values. That text is kept for logs
and operators (`EventsyncError.diagnosis`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from bson.errors import BSONError
from pymongo import AsyncMongoClient
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidName,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from eventsync.errors import Conflict, EventsyncError, Forbidden, Malformed, TooLarge, Unavailable
from eventsync.mongodb.validation import broken_rules

Hides = Callable[[str], bool]
"""Returns True for a field that no error may name."""

_VALIDATION_FAILED: Final = 121
_DUPLICATE_KEY: Final = 11000
_WRONG_KIND: Final = "MongoDB does not allow it for a collection of this kind (a view, capped, a time series)"
_BARRED: Final[Mapping[int | None, str]] = {
    13: "the MongoDB user of this server lacks the privilege",
    20: _WRONG_KIND,
    72: _WRONG_KIND,
    73: "MongoDB does not allow this name",
    166: _WRONG_KIND,
    167: _WRONG_KIND,
    263: _WRONG_KIND,
    10003: _WRONG_KIND,
}
"""Unauthorized, IllegalOperation, InvalidOptions, InvalidNamespace, CommandNotSupportedOnView,
OptionNotSupportedOnView, OperationNotSupportedInTransaction, CannotGrowDocumentInCappedNamespace: a retry does not
help.
"""
AUTHENTICATION_FAILED: Final = frozenset({18, 8000})
"""AuthenticationFailed, and AtlasError, which MongoDB Atlas returns instead."""

_PASSING: Final = frozenset(
    {6, 7, 24, 43, 46, 50, 63, 89, 91, 112, 133, 134, 150, 189, 202, 234, 237, 239, 246, 262, 292, 314, 384, 391}
    | {9001, 10107, 11600, 11601, 11602, 13388, 13435, 13436}
)
"""Codes of temporary failures: members, connections and elections, killed cursors and operations, timeouts, conflicts,
and lack of memory, disk space or history.
Source: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
"""

_DENIED: Final = re.compile(r"not authorized on (\S+) to execute command \{ (\w+): (?:\"([^\"]*)\")?")
_ACTIONS: Final[Mapping[str, str]] = {
    "aggregate": "find",
    "count": "find",
    "create": "createCollection",
    "createIndexes": "createIndex",
    "delete": "remove",
    "drop": "dropCollection",
    "findAndModify": "update",
    "renameCollection": "renameCollectionSameDB",
}
"""Command → action of the privilege, if their names differ."""

_TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420})
"""BSONObjectTooLarge, KeyTooLong, and an update that would make a document larger than 16 MiB."""

_NEVER_SENT: Final = (ServerSelectionTimeoutError, WaitQueueTimeoutError)
_IN_DOUBT: Final = (ConnectionFailure, WTimeoutError, WriteConcernError, ExecutionTimeout)


class Barred(Forbidden, Unavailable):
    """MongoDB refuses the operation until an operator changes a privilege or the collection.

    Clients get the code `forbidden` and no retry. Loops that wait for MongoDB handle it as `Unavailable`.
    """

    retryable = False


def knows_no_sessions(error: BaseException | None) -> bool:
    """Return True if the driver believes that the deployment has no sessions (see `forget_connections`)."""
    return isinstance(error, ConfigurationError) and "Sessions are not supported" in str(error)


async def forget_connections(client: Any) -> None:
    """Replace the pooled connections of a client of PyMongo's async API.

    A connection opened while its member was neither primary nor secondary (during an election or a start) believes for
    ever that the deployment has no sessions, and the pool keeps it. The driver has no public call to replace it. The
    connections of a Motor client are not replaced; they recover when they are closed as idle.
    """
    topology = getattr(client, "_topology", None)
    if isinstance(client, AsyncMongoClient) and topology is not None:
        # `reset_without_pause` closes idle connections now and busy ones when they come back, and refuses nobody.
        for server in list(topology._servers.values()):  # noqa: SLF001
            await server.pool.reset_without_pause()


def may_last(error: OperationFailure) -> bool:
    """Return True for a refused operation that is neither known to be temporary nor known to be permanent."""
    if isinstance(error, ExecutionTimeout | WTimeoutError) or error.code in _PASSING:
        return False
    passing = any(map(error.has_error_label, ("TransientTransactionError", "RetryableWriteError", "RetryableError")))
    return not passing and barred(error) is None and error.code not in AUTHENTICATION_FAILED


def is_lasting(error: OperationFailure) -> bool:
    """Return True for a refused statement of a bulk write that would be refused again."""
    # Of two upserts of one document at the same time, the later one may find that it exists.
    return may_last(error) and error.code != _DUPLICATE_KEY


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Translate driver errors in the block into `Unavailable` or `Barred`. `doing` names the failed action."""
    try:
        yield
    except (PyMongoError, BSONError) as error:
        raise unavailable(doing, error) from error


@contextmanager
def translated_write(doing: str, hides: Hides | None = None) -> Iterator[None]:
    """Translate driver errors of a write in the block. `doing` names the failed action.

    Raises `Conflict` (a duplicate in a unique index), `Malformed` (the collection's validation), `TooLarge`, `Barred`,
    or else `Unavailable`. The message of `Unavailable` says that nothing was written or that the outcome is unknown.
    """
    try:
        yield
    except (PyMongoError, BSONError) as error:
        raise write_error(doing, error, hides) from error


def write_error(doing: str, error: Exception, hides: Hides | None = None) -> EventsyncError:
    """Return the error that `translated_write` raises for an error of the driver."""
    # A refusal first: after it a client knows why nothing was written.
    return refusal(doing, error, hides) or unavailable(f"{doing}: {_what_happened(error)}", error)


def unavailable(doing: str, error: BaseException) -> Unavailable:
    """Return the error for a failed operation: `Barred` if a retry does not help."""
    if (reason := barred(error)) is not None:
        return Barred(f"{doing}: {reason}").because(short(error))
    return Unavailable(f"{doing}: {_trouble(error)}").because(short(error))


def refusal(doing: str, error: Exception, hides: Hides | None = None) -> EventsyncError | None:
    """Return the error for a write that MongoDB refused, or None for any other failure."""
    refused = _refusal(doing, error, hides)
    return None if refused is None else refused.because(short(error))


def barred(error: BaseException) -> str | None:
    """Return the reason why a retry does not help, or None if it may help."""
    if isinstance(error, InvalidName):
        return _BARRED[73]
    if isinstance(error, BSONError):
        return "MongoDB's answer can't be decoded"
    return _BARRED.get(error.code) if isinstance(error, OperationFailure) else None


def _refusal(doing: str, error: Exception, hides: Hides | None) -> EventsyncError | None:
    if isinstance(error, DuplicateKeyError):
        return Conflict(f"{doing}: {_duplicate(error, hides)}", lasting=True)
    if isinstance(error, DocumentTooLarge) or (isinstance(error, OperationFailure) and error.code in _TOO_LARGE):
        return TooLarge(f"{doing}: the document would be too large for MongoDB, or a value too large for an index")
    if isinstance(error, BSONError):
        return Malformed(f"{doing}: it holds a value that BSON can't")
    if isinstance(error, OperationFailure) and error.code == _VALIDATION_FAILED:
        return Malformed(f"{doing}: the collection's validation refuses it: {broken_rules(_details(error), hides)}")
    if isinstance(error, OperationFailure) and error.code in _BARRED:
        return Barred(f"{doing}: {_BARRED[error.code]}")
    return None


def short(error: BaseException) -> str:
    """Return the first line of a driver's message, without the appended topology and reply.

    For a command that is not authorized, return only the missing privilege: MongoDB's message quotes the whole command.
    """
    text = str(error)
    if isinstance(error, OperationFailure) and (denied := _DENIED.search(text)):
        return _privilege(*denied.group(1, 2, 3), streaming="$changeStream" in text)
    for tail in (", Topology Description", " (configured timeouts", ", full error"):
        text = text.partition(tail)[0]
    return text.split("\n")[0][:300]


def _privilege(database: str, command: str, collection: str | None, *, streaming: bool) -> str:
    action = "changeStream" if streaming else _ACTIONS.get(command, command)
    return f"it needs {action} on {f'{database}.{collection}' if collection else database}"


def _details(error: OperationFailure) -> Any:
    """Return MongoDB's explanation of why the validator refused a document."""
    info = (error.details or {}).get("errInfo")
    return info.get("details") if isinstance(info, Mapping) else None


def duplicate_fields(error: DuplicateKeyError) -> list[str]:
    """Return the fields of the unique index that forbids a document; none if MongoDB does not say."""
    return list((error.details or {}).get("keyPattern", {}))


def _duplicate(error: DuplicateKeyError, hides: Hides | None) -> str:
    names = duplicate_fields(error)
    if names == ["_id"]:
        return "it exists already"
    if not names or (hides is not None and any(map(hides, names))):
        return "a unique index forbids it"
    return f"another document has the same {', '.join(names)}, which a unique index forbids"


def is_in_doubt(error: BaseException) -> bool:
    """Return True if a write that failed so may have been made."""
    return isinstance(error, _IN_DOUBT) and not isinstance(error, _NEVER_SENT)


def _what_happened(error: Exception) -> str:
    if isinstance(error, _NEVER_SENT):
        return "nothing was written"
    if is_in_doubt(error):
        return "the outcome is unknown, the write may have been made"
    return "it was not written"


def _trouble(error: BaseException) -> str:
    """Describe a failure of MongoDB in our words."""
    if isinstance(error, OperationFailure) and error.code in AUTHENTICATION_FAILED:
        return "MongoDB refuses the user or the password of this server"
    return next((text for kind, text in _TROUBLES if isinstance(error, kind)), "MongoDB could not do it")


_TROUBLES: Final = (
    (WaitQueueTimeoutError, "too many requests wait for MongoDB"),
    (ServerSelectionTimeoutError, "MongoDB can't be reached"),
    ((NetworkTimeout, ExecutionTimeout), "MongoDB did not answer in time"),
    (NotPrimaryError, "MongoDB has no primary right now"),
    ((WTimeoutError, WriteConcernError), "MongoDB could not replicate it in time"),
    (ConnectionFailure, "the connection to MongoDB broke"),
)
