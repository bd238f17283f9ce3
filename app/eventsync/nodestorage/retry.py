"""Retries after a lost race, with jitter, bounded by the policy's attempts and deadline."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pymongo.errors import PyMongoError
from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_random_exponential

from eventsync.errors import Conflict, Unavailable
from eventsync.mongodb.errors import unavailable
from eventsync.nodestorage.policy import WritePolicy

T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.004, 0.25
"""In seconds. The first wait is about as long as another writer's write."""

_WRITE_CONFLICT: Final = 112


class Lost(Exception):
    """Another writer changed the document first. This error never leaves the package."""


def waits() -> wait_random_exponential:
    """Return waits with full jitter: a random time below a bound that doubles with each attempt."""
    return wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)


def pause_after(attempts: int) -> float:
    """Return such a wait in seconds, after so many attempts."""
    return random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(attempts - 1, 16)))


def lost_too_often(tries: int) -> Conflict:
    """Return the error after so many lost races."""
    return Conflict(f"other writers were faster {tries} times; try again later")


def waited_too_long(document: str, within: float) -> Conflict:
    """Return the error for a write that did not get its turn within so many seconds."""
    return Conflict(f"other writers of {document} took longer than {within:g} s; try again later")


def not_begun(document: str, within: float) -> Unavailable:
    """Return the error for a write that no group took within so many seconds, although no other held its document."""
    message = f"{document} could not be written within {within:g} s, and nothing was written; try again later"
    return Unavailable.busy(message, 1.0, 5.0)


async def retried(attempt: Callable[[], Awaitable[T]], policy: WritePolicy) -> T:
    """Call `attempt` until it loses no race.

    At the policy's bound, raises `Conflict` after lost races and `Unavailable` after other failures.
    """
    retrying = AsyncRetrying(
        stop=stop_after_attempt(policy.attempts) | stop_before_delay(policy.deadline),
        wait=waits(),
        retry=retry_if_exception(_may_try_again),
        before_sleep=lambda _: policy.retries.add(),
    )

    async def once() -> T:  # tenacity awaits only functions that are declared with `async def`
        return await attempt()

    try:
        return await retrying(once)
    except RetryError as failure:
        cause = failure.last_attempt.exception()
        tries = failure.last_attempt.attempt_number
        if cause is None or isinstance(cause, Lost):
            raise lost_too_often(tries) from cause
        if getattr(cause, "code", None) == _WRITE_CONFLICT:
            # MongoDB 6 reports both with the same code.
            reason = "other writers were faster, or the transaction is too large for MongoDB's cache"
            raise Conflict(f"{tries} times {reason}; try again later, or split it up") from cause
        raise unavailable("nothing was written", cause) from cause


def is_transient(error: BaseException) -> bool:
    """Return True if the transaction that raised `error` was not committed and may be repeated."""
    return isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError")


def _may_try_again(error: BaseException) -> bool:
    return isinstance(error, Lost) or is_transient(error)
