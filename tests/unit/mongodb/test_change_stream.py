from __future__ import annotations

import pytest
from bson.timestamp import Timestamp
from pymongo.errors import AutoReconnect, OperationFailure

from eventsync.errors import Unavailable
from eventsync.mongodb.change_stream import (
    Batch,
    ChangeTooLarge,
    HistoryLost,
    StreamInterrupted,
    interrupted,
    token_time,
)

MARK = "826B04687B000000022B0229296E04"
EVENT = "826B04687B000000022B022C0100296E5A10047C86BBEC5AFB43DEB1A1EBEB191C4943461E5F6964002B020004"


@pytest.mark.parametrize("token", [MARK, EVENT])
def test_a_token_says_its_cluster_time(token: str) -> None:
    assert token_time(token) == Timestamp(0x6B04687B, 2)
    assert Batch([], token).time == Timestamp(0x6B04687B, 2)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OperationFailure("x", 136), HistoryLost),
        (OperationFailure("x", 260), HistoryLost),
        (OperationFailure("x", 280), HistoryLost),
        (OperationFailure("x", 286), HistoryLost),
        (OperationFailure("x", 40646), HistoryLost),
        (OperationFailure("x", 50795), HistoryLost),
        (OperationFailure("x", 10334), ChangeTooLarge),
        (OperationFailure("x", 7182500), ChangeTooLarge),
        (OperationFailure("x", 43), StreamInterrupted),
        (OperationFailure("x", None), StreamInterrupted),
        (AutoReconnect("x"), StreamInterrupted),
    ],
)
def test_the_ways_a_stream_can_break(error: Exception, kind: type[Unavailable]) -> None:
    with pytest.raises(Unavailable) as caught, interrupted():
        raise error
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error


def test_errors_of_others_are_not_translated() -> None:
    with pytest.raises(KeyError), interrupted():
        raise KeyError("x")
