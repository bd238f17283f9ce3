"""Connections to MongoDB that do less for each command than PyMongo's own.

PyMongo makes three asyncio tasks for each command: one sends, one receives, and one checks if the pool has given up the
connection. They take 60 of 210 µs of CPU for a `ping`. In the pools of our clients (`TasklessPool`) the caller
itself sends and receives, and a timer of the connection checks the deadline and the pool. All else is PyMongo's:
sessions, retries, the choice of the server.

Choosing a server and checking a connection out and in take another 100 µs. A steady stream of changes is read and
appended by hundreds of commands a second, so its reader and its writer hold a connection each (`PinnedConnection`) and
exchange messages over it themselves. Nothing is retried there, and PyMongo's monitors alone tell which member is
primary.

Source: https://github.com/mongodb/specifications/blob/master/source/message/OP_MSG.md
"""

from __future__ import annotations

import asyncio
import itertools
import math
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient, _csot
from pymongo.asynchronous.pool import AsyncConnection, Pool
from pymongo.errors import _OperationCancelled
from pymongo.helpers_shared import _check_command_response
from pymongo.message import _OpMsg

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.errors import forget_connections

_HEADER: Final = struct.Struct("<iiiiIB")
"""Length, number, number of the request that is answered, opcode; flags; kind of the first section: a document."""

_SEQUENCE: Final = struct.Struct("<Bi")
"""Kind of a section that has documents, and its size without the kind."""

_DOCUMENTS: Final = b"documents\0"
_OP_MSG: Final = 2013

_CHECK_INTERVAL: Final = 0.5
"""Seconds between two checks of a connection that waits for an answer. PyMongo checks as often."""

_NEVER: Final = float("inf")


class TasklessConnection(AsyncConnection):
    """A connection that sends and receives in the task of its caller. `TasklessPool` makes them."""

    _deadline = _NEVER
    """The end of the time for the answer that the connection waits for."""
    _is_waiting = False
    _is_given_up = False
    _timer: asyncio.TimerHandle | None = None

    async def send_message(self, message: bytes, max_doc_size: int) -> None:
        """Send a message. Raises as the method of the base class."""
        if max_doc_size > self.max_bson_size:
            await super().send_message(message, max_doc_size)  # which refuses it
        try:
            await self.conn.get_conn.write(message)  # into a buffer, without waiting
        except BaseException as error:
            await self._raise_connection_failure(error)
            raise

    async def receive_message(self, request_id: int | None) -> _OpMsg:
        """Receive the answer to a request. Raises as the method of the base class."""
        protocol = self.conn.get_conn
        now = time.monotonic()
        limit = _csot.get_deadline() if _csot.get_timeout() else now + (protocol.gettimeout or _NEVER)
        self._deadline, self._is_waiting = limit, True
        # One timer for all commands: a timeout for each would cost more than the message that it bounds.
        if self._timer is None or limit < now + _CHECK_INTERVAL:
            self._check()
        try:
            data, _ = await protocol.read(request_id, self.max_message_size)
        except BaseException as error:  # also if it is cancelled: the answer may still come
            await self._raise_connection_failure(error)
            raise
        finally:
            self._is_waiting = False
        if self._is_given_up:
            # The answer came in the same turn of the event loop. The pool must not keep the connection.
            await self.close_conn(None)
        return _OpMsg.unpack(data)

    def _check(self) -> None:
        """End the wait for an answer that is overdue, or that the pool has given up. Otherwise check again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_waiting:
            return
        left = self._deadline - time.monotonic()
        if self.cancel_context.cancelled:
            self._give_up(_OperationCancelled("operation cancelled"))
        elif left <= 0:
            self._give_up(TimeoutError("timed out"))
        else:
            self._timer = asyncio.get_running_loop().call_later(min(_CHECK_INTERVAL, left), self._check)

    def _give_up(self, reason: Exception) -> None:
        self._is_given_up = True
        self.conn.get_conn.close(reason)


class TasklessPool(Pool):
    """A pool of such connections. Those that watch a server (`is_sdam`) stay as they are."""

    async def connect(self, handler: Any = None) -> AsyncConnection:
        """Open a connection, and authenticate it."""
        if self.is_sdam:
            return await super().connect(handler)
        # PyMongo does not close the socket if it is cancelled in here, so the caller alone is.
        connecting = asyncio.create_task(super().connect(handler))
        try:
            connection = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(self._abandon)
            raise
        connection.__class__ = TasklessConnection
        return connection

    def _abandon(self, connecting: asyncio.Task[AsyncConnection]) -> None:
        """Close a connection that nobody waits for any more, if there is one."""
        if not connecting.cancelled() and connecting.exception() is None:
            connection = connecting.result()
            self.active_contexts.discard(connection.cancel_context)
            connection.conn.get_conn.close()


class PinnedConnection:
    """One connection to the primary, for one command at a time. Make one with `pinned`."""

    def __init__(self, client: AsyncMongoClient[Any], connection: Any) -> None:
        self._client = client
        self._connection = connection
        self._numbers = itertools.count(1)
        self.timeout: float = connection.opts.socket_timeout or math.inf
        """Seconds after which an answer is overdue, and the connection is closed."""

    async def command(
        self,
        database: str,
        command: Mapping[str, Any],
        codec: CodecOptions[Any] = CODEC,
        *,
        documents: Sequence[bytes] = (),
    ) -> Mapping[str, Any]:
        """Send a command and return the answer. `documents`, in BSON, are the command's field of this name.

        Raises `PyMongoError`, after which the connection may be closed.
        """
        # Encoded before the deadline begins: a large command takes milliseconds that are not MongoDB's.
        body = [bson.encode({**command, "$db": database}, codec_options=CODEC)]
        if documents:
            size = _SEQUENCE.size - 1 + len(_DOCUMENTS) + sum(map(len, documents))
            body += (_SEQUENCE.pack(1, size), _DOCUMENTS, *documents)
        # A message's number is an int32.
        number = next(self._numbers) & 0x7FFFFFFF
        header = _HEADER.pack(_HEADER.size + sum(map(len, body)), number, 0, _OP_MSG, 0, 0)
        message = b"".join((header, *body))
        await self._connection.send_message(message, 0)
        reply = await self._connection.receive_message(number)
        answer: dict[str, Any] = bson.decode_all(reply.payload_document, codec)[0]
        # The driver's own check, so that callers see the same exceptions, with the same labels, as from its commands.
        _check_command_response(answer, self._connection.max_wire_version)
        return answer

    @property
    def is_to_primary(self) -> bool:
        """True while the member at the other end accepts writes, as far as the client knows."""
        # A member that is cut off does not know that another one was elected. The client's monitors do.
        member = self._client.topology_description.server_descriptions().get(self._connection.address)
        return member is not None and member.is_writable


@asynccontextmanager
async def pinned(
    client: AsyncMongoClient[Any], translating: AbstractContextManager[None]
) -> AsyncIterator[PinnedConnection]:
    """Hold a connection to the primary. If there is none, `translating` gets the `PyMongoError`."""
    async with AsyncExitStack() as stack:
        # Only the checkout: errors of the block are translated by its commands.
        with translating:
            checkout = await client._conn_for_writes(None, "pin a connection")  # noqa: SLF001
            connection = await stack.enter_async_context(checkout)
        # The last user's: what is left of a time limit, such as that of freeing a cursor, is too short for a stream.
        connection.set_conn_timeout(connection.opts.socket_timeout)
        if not connection.supports_sessions:
            # It takes these commands all the same, but other users of the pool's connections need sessions.
            await forget_connections(client)
        yield PinnedConnection(client, connection)
