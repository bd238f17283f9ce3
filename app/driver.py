"""The one place where what the MongoDB driver raises becomes an error of ours.

Reads and bookkeeping use `translated`. Writes for a client use `translated_write`, which keeps apart what MongoDB
refused, what was never sent, and what may or may not have happened.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

from app.errors import Conflict, EventsyncError, Malformed, TooLarge, Unavailable

_VALIDATION_FAILED: Final = 121
_TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420})
"""BSONObjectTooLarge, KeyTooLong, and an update that would make a document larger than 16 MiB."""

_NEVER_SENT: Final = (ServerSelectionTimeoutError, WaitQueueTimeoutError)
_IN_DOUBT: Final = (ConnectionFailure, WTimeoutError, WriteConcernError, ExecutionTimeout)


def knows_no_sessions(error: BaseException | None) -> bool:
    """Whether the driver believes that the deployment has no sessions: see `forget_connections`."""
    return isinstance(error, ConfigurationError) and "Sessions are not supported" in str(error)


async def forget_connections(client: Any) -> None:
    """Have a client of PyMongo's async API open its pooled connections anew.

    A connection that was opened while its member was neither primary nor secondary (in an election, while it starts)
    believes for ever that the deployment knows no sessions, and the pool goes on giving it out. The driver has no
    public call for this. A Motor client's connections are left alone; they heal once they are closed as idle.
    """
    topology = getattr(client, "_topology", None)
    if isinstance(client, AsyncMongoClient) and topology is not None:
        for server in list(topology._servers.values()):  # noqa: SLF001
            await server.pool.reset_without_pause()


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn driver errors inside into `Unavailable`; `doing` says what could not be done."""
    try:
        yield
    except PyMongoError as error:
        raise Unavailable(f"{doing}: MongoDB answered: {short(error)}") from error


@contextmanager
def translated_write(doing: str) -> Iterator[None]:
    """Turn driver errors of a write inside into ours; `doing` says what could not be done.

    Raises `Conflict` (a unique index has the value already), `Malformed` (the collection's own validation), `TooLarge`,
    and else `Unavailable`, whose message says whether nothing was written or the outcome is unknown.
    """
    try:
        yield
    except (PyMongoError, BSONError) as error:
        if refused := refusal(doing, error):
            raise refused from error
        raise Unavailable(f"{doing}: {_what_happened(error)}: {short(error)}") from error


def refusal(doing: str, error: Exception) -> EventsyncError | None:
    """What the caller is to be told where the write itself was refused; None where something else went wrong."""
    if isinstance(error, DuplicateKeyError):
        return Conflict(f"{doing}: {_duplicate(error)}")
    if isinstance(error, DocumentTooLarge):
        return TooLarge(f"{doing}: {short(error)}")
    if isinstance(error, BSONError):
        return Malformed(f"{doing}: {short(error)}")
    if isinstance(error, OperationFailure) and error.code in _TOO_LARGE:
        return TooLarge(f"{doing}: {short(error)}")
    if isinstance(error, OperationFailure) and error.code == _VALIDATION_FAILED:
        return Malformed(f"{doing}: the collection's validation refuses it: {short(error)}")
    return None


def short(error: BaseException) -> str:
    """The first line of a driver's message, without the topology and the reply that it appends."""
    text = str(error)
    for tail in (", Topology Description", " (configured timeouts", ", full error"):
        text = text.partition(tail)[0]
    return text.split("\n")[0][:300]


def _duplicate(error: DuplicateKeyError) -> str:
    names = ", ".join((error.details or {}).get("keyPattern", {}))
    if names in {"", "_id"}:
        return "it exists already"
    return f"another document has the same {names}, which a unique index forbids"


def _what_happened(error: Exception) -> str:
    if isinstance(error, _NEVER_SENT):
        return "MongoDB can't be reached, nothing was written"
    if isinstance(error, _IN_DOUBT):
        return "the outcome is unknown, the write may have been made"
    return "MongoDB answered"
