"""An exception of the driver becomes an error of ours, which says as much as is known."""

from __future__ import annotations

import pytest
from bson.errors import InvalidDocument
from pymongo.errors import (
    AutoReconnect,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteError,
    WTimeoutError,
)

from eventsync.errors import Conflict, EventsyncError, Forbidden, Malformed, TooLarge, Unavailable
from eventsync.mongodb.errors import Barred, short, translated, translated_write


@pytest.mark.parametrize(
    ("raised", "becomes", "says"),
    [
        (DuplicateKeyError("E11000", 11000, {"keyPattern": {"_id": 1}}), Conflict, "it exists already"),
        (DuplicateKeyError("E11000", 11000, {"keyPattern": {"a": 1, "b": 1}}), Conflict, "the same a, b"),
        (DuplicateKeyError("E11000", 11000), Conflict, "a unique index forbids it"),
        (WriteError("Document failed validation", 121), Malformed, "validation"),
        (OperationFailure("secret", 17419), TooLarge, "too large"),
        (OperationFailure("secret", 10334), TooLarge, "too large"),
        (DocumentTooLarge("secret"), TooLarge, "too large"),
        (InvalidDocument("secret"), Malformed, "BSON"),
        (ServerSelectionTimeoutError("no primary"), Unavailable, "nothing was written"),
        (WaitQueueTimeoutError("pool"), Unavailable, "nothing was written"),
        (AutoReconnect("closed"), Unavailable, "the outcome is unknown"),
        (NetworkTimeout("timed out"), Unavailable, "the outcome is unknown"),
        (WTimeoutError("waiting", 64), Unavailable, "the outcome is unknown"),
        (ExecutionTimeout("time limit", 50), Unavailable, "the outcome is unknown"),
        (OperationFailure("secret", 13), Barred, "lacks the privilege"),
        (OperationFailure("secret", 18), Unavailable, "the user or the password"),
        (OperationFailure("secret", 166), Barred, "a view"),
        (OperationFailure("secret", 8), Unavailable, "it was not written: MongoDB could not do it"),
    ],
)
def test_errors_of_writes(raised: Exception, becomes: type[EventsyncError], says: str) -> None:
    with pytest.raises(becomes) as failure, translated_write("c/1 can't be written"):
        raise raised
    assert failure.value.message.startswith("c/1 can't be written: ")
    assert says in failure.value.message
    assert str(raised) not in failure.value.message
    assert failure.value.diagnosis == f"{failure.value.message} ({short(raised)})"
    assert failure.value.__cause__ is raised


def test_errors_of_reads() -> None:
    with pytest.raises(Unavailable) as failure, translated("it can't be read"):
        raise AutoReconnect("db-1:27017: closed")
    assert failure.value.message == "it can't be read: the connection to MongoDB broke"
    assert failure.value.diagnosis.endswith("(db-1:27017: closed)")


def test_a_barred_error_is_not_retryable() -> None:
    with pytest.raises(Unavailable) as failure, translated("it can't be read"):
        raise OperationFailure("not authorized on shop to execute command { find: ... }", 13)
    assert isinstance(failure.value, Forbidden)
    assert (failure.value.code, failure.value.retryable) == ("forbidden", False)
    assert "shop" not in failure.value.message


def test_errors_that_are_ours_pass() -> None:
    with pytest.raises(TooLarge, match=r"^ours$"), translated_write("x"), translated("y"):
        raise TooLarge("ours")


def test_messages_are_short() -> None:
    assert short(AutoReconnect("gone (configured timeouts: 2 s), Topology Description: <...>")) == "gone"
    assert short(OperationFailure("first\nsecond")) == "first"
    assert len(short(OperationFailure("x" * 1000))) == 300


@pytest.mark.parametrize(
    ("command", "privilege"),
    [
        ('{ find: "leases", filter: { x: "secret" }, lsid: 1 }', "it needs find on log.leases"),
        ('{ findAndModify: "leases", query: {} }', "it needs update on log.leases"),
        ("{ aggregate: 1, pipeline: [ { $changeStream: {} } ] }", "it needs changeStream on log"),
        ('{ delete: "a.b", ordered: true }', "it needs remove on log.a.b"),
        ("{ listCollections: 1, nameOnly: true }", "it needs listCollections on log"),
    ],
)
def test_the_missing_privilege_is_named_without_the_command(command: str, privilege: str) -> None:
    error = OperationFailure(f"not authorized on log to execute command {command}", 13, {})
    assert short(error) == privilege
