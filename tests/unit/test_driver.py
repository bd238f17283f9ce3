"""What the driver raises becomes an error of ours, which says as much as is known."""

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

from app.driver import short, translated, translated_write
from app.errors import Conflict, EventsyncError, Malformed, TooLarge, Unavailable


@pytest.mark.parametrize(
    ("raised", "becomes", "says"),
    [
        (DuplicateKeyError("E11000", 11000, {"keyPattern": {"_id": 1}}), Conflict, "it exists already"),
        (DuplicateKeyError("E11000", 11000, {"keyPattern": {"a": 1, "b": 1}}), Conflict, "the same a, b"),
        (WriteError("Document failed validation", 121), Malformed, "validation"),
        (OperationFailure("too large", 17419), TooLarge, "too large"),
        (OperationFailure("too large", 10334), TooLarge, "too large"),
        (DocumentTooLarge("17 MB"), TooLarge, "17 MB"),
        (InvalidDocument("cannot encode"), Malformed, "cannot encode"),
        (ServerSelectionTimeoutError("no primary"), Unavailable, "nothing was written"),
        (WaitQueueTimeoutError("pool"), Unavailable, "nothing was written"),
        (AutoReconnect("closed"), Unavailable, "the outcome is unknown"),
        (NetworkTimeout("timed out"), Unavailable, "the outcome is unknown"),
        (WTimeoutError("waiting", 64), Unavailable, "the outcome is unknown"),
        (ExecutionTimeout("time limit", 50), Unavailable, "the outcome is unknown"),
        (OperationFailure("not authorized", 13), Unavailable, "MongoDB answered: not authorized"),
    ],
)
def test_errors_of_writes(raised: Exception, becomes: type[EventsyncError], says: str) -> None:
    with pytest.raises(becomes) as failure, translated_write("c/1 can't be written"):
        raise raised
    assert failure.value.message.startswith("c/1 can't be written: ")
    assert says in failure.value.message
    assert failure.value.__cause__ is raised


def test_errors_of_reads() -> None:
    with pytest.raises(Unavailable, match="it can't be read: MongoDB answered: closed"), translated("it can't be read"):
        raise AutoReconnect("closed")


def test_errors_that_are_ours_pass() -> None:
    with pytest.raises(TooLarge, match=r"^ours$"), translated_write("x"), translated("y"):
        raise TooLarge("ours")


def test_messages_are_short() -> None:
    assert short(AutoReconnect("gone (configured timeouts: 2 s), Topology Description: <...>")) == "gone"
    assert short(OperationFailure("first\nsecond")) == "first"
    assert len(short(OperationFailure("x" * 1000))) == 300
