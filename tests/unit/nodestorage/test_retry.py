"""Retries: the errors that are tried again, the number of attempts, and the error when none works."""

from __future__ import annotations

import pytest
from pymongo.errors import NetworkTimeout, OperationFailure

from eventsync.errors import Conflict, NotFound, Unavailable
from eventsync.nodestorage import WritePolicy
from eventsync.nodestorage.retry import Lost, retried

POLICY = WritePolicy(attempts=4, deadline=5.0)


class Attempts:
    """Raises one error after another, then returns how often it was called."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def transient(error: OperationFailure | NetworkTimeout) -> Exception:
    error._add_error_label("TransientTransactionError")
    return error


async def test_lost_races_and_transient_errors_are_tried_again() -> None:
    conflict = transient(OperationFailure("WriteConflict", 112))
    assert await retried(Attempts(Lost(), conflict, transient(NetworkTimeout("gone"))), POLICY) == 4


async def test_other_errors_are_not() -> None:
    for error in (NotFound("x"), NetworkTimeout("gone"), OperationFailure("other", 1)):
        attempts = Attempts(error)
        with pytest.raises(type(error)):
            await retried(attempts, POLICY)
        assert attempts.calls == 1


async def test_attempts_are_bounded() -> None:
    attempts = Attempts(*[Lost()] * 10)
    with pytest.raises(Conflict, match="4 times"):
        await retried(attempts, POLICY)
    assert attempts.calls == 4


async def test_failures_other_than_races_end_as_unavailable() -> None:
    with pytest.raises(Unavailable, match="nothing was written"):
        await retried(Attempts(*[transient(NetworkTimeout("gone"))] * 10), POLICY)


async def test_the_deadline_is_kept() -> None:
    attempts = Attempts(*[Lost()] * 100_000)
    with pytest.raises(Conflict):
        await retried(attempts, WritePolicy(attempts=100_000, deadline=0.05))
    assert attempts.calls < 1000


async def test_attempts_that_are_made_again_are_counted() -> None:
    policy = WritePolicy(attempts=4, deadline=5.0)
    await retried(Attempts(Lost(), Lost()), policy)
    assert policy.retries.count == 2
    with pytest.raises(NotFound):
        await retried(Attempts(NotFound("x")), policy)
    assert policy.retries.count == 2
    assert WritePolicy().retries.count == 0, "each storage counts its own"
