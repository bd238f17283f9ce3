"""A connection that is held for a long series of commands: an open cursor, or the only writer of a log.

For each command, PyMongo selects a server, checks a connection out and in, and makes three tasks: 180 µs of CPU for a
`ping`, whose messages take 20. A steady stream of changes is read and appended by hundreds of commands a second, so its
reader and its writer hold a connection each, which PyMongo has made and authenticated, and exchange messages over it
themselves. Nothing is retried, and PyMongo's monitors alone tell which member is primary.

Source: https://github.com/mongodb/specifications/blob/master/source/message/OP_MSG.md
"""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final

import bson
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient
from pymongo.helpers_shared import _check_command_response

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.errors import forget_connections

_HEADER: Final = struct.Struct("<iiiiIB")
"""Length, number, number of the request that is answered, opcode; flags; kind of the only section: a document."""

_OP_MSG: Final = 2013
_BEFORE_DOCUMENT: Final = 5
"""Bytes of an answer before its document: the flags and the kind of the section."""

_LARGEST: Final = 48_000_000
_CHECK_INTERVAL: Final = 0.5
"""Seconds between two checks for an overdue answer."""


class PinnedConnection:
    """One connection to the primary, for one command at a time. Make one with `pinned`."""

    def __init__(self, client: AsyncMongoClient[Any], connection: Any) -> None:
        self._client = client
        self._connection = connection
        self._protocol = connection.conn.get_conn
        self._timeout: float = self._protocol.gettimeout or float("inf")
        self._numbers = itertools.count(1)
        self._deadline = float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self._check()

    async def command(
        self, database: str, command: Mapping[str, Any], codec: CodecOptions[Any] = CODEC
    ) -> Mapping[str, Any]:
        """Send a command and return the answer. Raises `PyMongoError`, after which the connection may be closed."""
        # Encoded before the deadline begins: a large insert takes milliseconds that are not MongoDB's.
        body = bson.encode({**command, "$db": database}, codec_options=CODEC)
        # A message's number is an int32.
        number = next(self._numbers) & 0x7FFFFFFF
        self._deadline = time.monotonic() + self._timeout
        message = await self._exchange(_HEADER.pack(_HEADER.size + len(body), number, 0, _OP_MSG, 0, 0) + body, number)
        answer: dict[str, Any] = bson.decode_all(message[_BEFORE_DOCUMENT:], codec)[0]
        # The driver's own check, so that callers see the same exceptions, with the same labels, as from its commands.
        _check_command_response(answer, self._connection.max_wire_version)
        return answer

    async def _exchange(self, message: bytes, number: int) -> memoryview:
        """Send a message; return the answer to it without its header."""
        try:
            await self._protocol.write(message)
            answer: memoryview = (await self._protocol.read(number, _LARGEST))[0]
        except BaseException as error:  # also if it is cancelled: the answer may still come
            await self._connection._raise_connection_failure(error)  # noqa: SLF001
            raise
        else:
            return answer
        finally:
            self._deadline = float("inf")

    @property
    def is_to_primary(self) -> bool:
        """True while the member at the other end accepts writes, as far as the client knows."""
        # A member that is cut off does not know that another one was elected. The client's monitors do.
        member = self._client.topology_description.server_descriptions().get(self._connection.address)
        return member is not None and member.is_writable

    def _check(self) -> None:
        """Close the connection if an answer is overdue, or if the client has given up the member's connections."""
        # One timer for all commands: a timeout for each would cost more than the message that it bounds.
        if time.monotonic() > self._deadline:
            self._protocol.close(TimeoutError("timed out"))
        elif self._connection.cancel_context.cancelled:
            self._protocol.close(OSError("the member does not answer"))
        else:
            self._timer = asyncio.get_running_loop().call_later(_CHECK_INTERVAL, self._check)

    def stop_checking(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()


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
        if not connection.supports_sessions:
            # It takes these commands all the same, but other users of the pool's connections need sessions.
            await forget_connections(client)
        held = PinnedConnection(client, connection)
        try:
            yield held
        finally:
            held.stop_checking()
