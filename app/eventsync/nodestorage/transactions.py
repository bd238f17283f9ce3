"""MongoDB transactions, on PyMongo's async API and on Motor.

Source: https://github.com/mongodb/specifications/blob/master/source/transactions/transactions.md
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.read_concern import ReadConcern
from tenacity import AsyncRetrying, RetryError, retry_if_exception, stop_before_delay

from eventsync.errors import Unavailable
from eventsync.mongodb.errors import forget_connections, is_in_doubt, knows_no_sessions, short
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.retry import Lost, is_transient, retried, waits

T = TypeVar("T")

Session = Any
"""A client session of either driver."""

_DURABLE: Final = WriteConcern(w="majority", j=True)

_ABORT_TIMEOUT: Final = 1.0
"""Longest abort, in seconds, for a cancelled caller. MongoDB itself aborts a transaction that is left open."""

_UNKNOWN_RESULT = "UnknownTransactionCommitResult"


def durable(collection: Any, codec: CodecOptions[Any]) -> Any:
    """Return the collection with majority read and write concern, whatever its own options are."""
    return collection.with_options(
        codec_options=codec,
        read_preference=ReadPreference.PRIMARY,
        write_concern=_DURABLE,
        read_concern=ReadConcern("majority"),
    )


class _CutOff(Exception):
    """The caller was cancelled before the commit. This error never leaves this module."""


class Transactions:
    """Runs functions in transactions of `client`, with retries within the policy's bounds."""

    def __init__(self, client: Any, policy: WritePolicy) -> None:
        self._client = client
        self._policy = policy
        self._has_threads = not isinstance(client, AsyncMongoClient)
        """True for Motor, which runs each call in a thread."""
        self._left: set[asyncio.Task[Any]] = set()
        """Attempts whose callers were cancelled. (asyncio itself holds tasks only weakly.)"""

    async def run(self, body: Callable[[Session], Awaitable[T]]) -> T:
        """Call `body` with a session in a transaction, and commit. An exception from `body` aborts the transaction.

        `body` runs again after a lost race. Raises `Conflict` at the bound, and `Unavailable` if the outcome of the
        commit stays unknown.
        """

        async def attempt() -> T:
            try:
                return await self.once(body)
            except ConfigurationError as error:
                if not knows_no_sessions(error):
                    raise
                await forget_connections(self._client)
                raise Lost from error  # nothing was sent: the next attempt has another connection

        return await retried(attempt, self._policy)

    async def once(self, body: Callable[[Session], Awaitable[T]]) -> T:
        """Make one attempt. Raises `Unavailable` if the outcome of the commit stays unknown; otherwise after an error
        nothing is committed.
        """
        if not self._has_threads:
            return await self._attempt(body)
        is_cut_off = False

        async def checked(session: Session) -> T:
            result = await body(session)
            if is_cut_off:
                raise _CutOff
            return result

        # A call of Motor's that is cancelled continues in its thread. Were the transaction aborted meanwhile, PyMongo
        # would send the command outside of it. So the attempt ends by itself, without the caller.
        attempt = asyncio.create_task(self._attempt(checked), name="transaction")
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            is_cut_off = True
            self._left.add(attempt)
            attempt.add_done_callback(self._ended)
            raise

    def _ended(self, attempt: asyncio.Task[Any]) -> None:
        self._left.discard(attempt)
        if not attempt.cancelled():
            attempt.exception()  # Nobody else retrieves it, and asyncio would log that.

    async def _attempt(self, body: Callable[[Session], Awaitable[T]]) -> T:
        session = await _settled(self._client.start_session())
        try:
            options = {"read_concern": ReadConcern("snapshot"), "write_concern": _DURABLE}
            await _settled(session.start_transaction(**options, read_preference=ReadPreference.PRIMARY))
            result = await body(session)
            await self._commit(session)
        except asyncio.CancelledError:
            # A thread may still use the session, whose transaction MongoDB itself aborts later.
            if not self._has_threads:
                with pymongo.timeout(_ABORT_TIMEOUT):
                    await session.end_session()
            raise
        except BaseException:
            await session.end_session()
            raise
        await session.end_session()
        return result

    async def _commit(self, session: Session) -> None:
        """Commit, and repeat while the outcome is unknown. Committing twice is harmless."""
        retrying = AsyncRetrying(
            stop=stop_before_delay(self._policy.deadline), wait=waits(), retry=retry_if_exception(_result_is_unknown)
        )

        async def commit() -> None:
            await session.commit_transaction()

        try:
            await retrying(commit)
        except RetryError as failure:
            cause = failure.last_attempt.exception()
            detail = short(cause) if cause else ""
            message = "the outcome of the transaction is unknown, it may have happened"
            raise Unavailable(message).because(detail) from cause


async def _settled(value: Any) -> Any:
    """Await `value` if it is awaitable: some calls are coroutines in one driver and plain calls in the other."""
    return await value if inspect.isawaitable(value) else value


def _result_is_unknown(error: BaseException) -> bool:
    # The driver does not label everything that may follow a commit, as the interruption of its replication.
    return isinstance(error, PyMongoError) and (
        error.has_error_label(_UNKNOWN_RESULT) or (is_in_doubt(error) and not is_transient(error))
    )
