"""`GET /v1/sync`: the WebSocket transport (RFC 6455), one message a text frame."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from eventsync.api.authentication import authenticate_hello, handshake_credential
from eventsync.api.endpoint import AccessLevel, Endpoint, WebSocketEndpoint, check_query
from eventsync.api.permissions import Permissions
from eventsync.api.state import ACCESS, Services, begin_access, services_of
from eventsync.concurrency.slices import turn
from eventsync.concurrency.token_bucket import TokenBucket
from eventsync.domain import protocol
from eventsync.domain.protocol import SUBPROTOCOL, Hello, UnreadableMessage
from eventsync.errors import EventsyncError, Forbidden, Malformed, RateLimited, TooLarge, Unauthenticated, public_error
from eventsync.logging import name_session
from eventsync.server.extensions import evict, socket_writer, until_writable
from eventsync.server.observing import websocket_observed
from eventsync.server.problems import Close, close_of, retry_after
from eventsync.server.response_stream import ClientDisconnected
from eventsync.server.websocket_frames import close_reason, text_frame, text_head
from eventsync.sync.live.fan_out import DirectWriter, Publication
from eventsync.sync.sessions.session import Connection, Session
from eventsync.sync.sessions.subscription import OutboundMessage

logger = logging.getLogger(__name__)

PATH = "/v1/sync"

_TEXT_WEIGHT = 4
"""Work of a character of a message, in bytes of a document."""

_BURST = 10.0
"""Seconds over which the rate of a client's messages is averaged."""


class NoHello(EventsyncError):
    """The client sent no `hello` in time."""

    code = "no_hello"


class TooManyMessages(RateLimited):
    """The client exceeds its message rate."""


class SlowClient(EventsyncError):
    """The client did not accept a message within the send timeout."""

    code = "slow"


async def _serve(websocket: WebSocket) -> None:
    """Serve one connection from its handshake to its close."""
    offered = websocket.scope["subprotocols"]
    credential = handshake_credential(websocket.scope)
    await websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    connection = _Connection(websocket, services_of(websocket))
    try:
        await connection.run(credential)
    except (ClientDisconnected, WebSocketDisconnect):
        return
    except SlowClient as error:
        logger.info("a slow client is evicted: %s", error.message)
        evict(websocket.scope, Close.SLOW)
    except NoHello as error:
        await connection.close(Close.NO_HELLO, error.message)
    except EventsyncError as error:
        await connection.fail(error)
    else:
        await connection.close(Close.RESTART, "the server is going away")


class Sync:
    """The endpoint. Raw ASGI: Starlette's wrapper around a function takes 2 KiB a connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with websocket_observed(scope, PATH, log=services_of(HTTPConnection(scope)).settings.access_log):
            await _serve(WebSocket(scope, receive, send))


def direct_writer(scope: Scope) -> DirectWriter | None:
    """Return a writer that bypasses ASGI, if the server has one. All clients are sent the same bytes."""
    write = socket_writer(scope)
    return None if write is None else DirectWriter(_encode, write)


def _encode(publication: Publication) -> bytes:
    return text_frame(publication.data)


class _Connection:
    """One client's connection. One task writes and another reads; they share the session."""

    def __init__(self, websocket: WebSocket, services: Services) -> None:
        self._websocket = websocket
        self._services = services
        self._settings = services.settings

    async def run(self, credential: str | Unauthenticated | None) -> None:
        """Serve until the session is closed. Raises the error that ended it. `credential` is that of the handshake."""
        check_query(self._websocket, frozenset())
        hello = await self._hello()
        access = await authenticate_hello(self._websocket, hello.token, credential)
        begin_access(self._websocket.scope, access)
        with Permissions(self._websocket).connection():
            async with self._services.sync.sessions.open(
                hello.shapes,
                hello.vector,
                hello.client_id,
                access=access,
                transport="websocket",
                connection=Connection(direct_writer(self._websocket.scope), self._until_writable),
            ) as session:
                name_session(session.id)
                await self._serve(session)

    async def _serve(self, session: Session) -> None:
        ended: Exception | None = None
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(session), name=f"read from session {session.id}")
            try:
                await self._write(session)
            except (EventsyncError, ClientDisconnected) as error:
                ended = error  # raised below: here the group would wrap it
            finally:
                # A read of the socket may be cancelled: unlike one of a change stream, it holds nothing on a server.
                reading.cancel()
        if not reading.cancelled() and (failure := reading.result()) is not None:
            raise failure
        if ended is not None:
            raise ended

    async def _hello(self) -> Hello:
        try:
            async with asyncio.timeout(self._settings.hello_timeout):
                text = await self._receive()
        except TimeoutError as error:
            raise NoHello(f"no hello within {self._settings.hello_timeout:g} s") from error
        request = protocol.parse(text, max_shapes=self._settings.max_shapes)
        if not isinstance(request, Hello):
            raise Malformed("the first message is hello")
        return request

    async def _receive(self) -> str:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientDisconnected
        if (text := message.get("text")) is None:
            raise UnreadableMessage("messages are text frames")
        # The number of characters first: the bytes are no fewer, and counting them copies the message.
        if len(text) > self._settings.message_bytes or len(text.encode()) > self._settings.message_bytes:
            raise TooLarge(f"a message has at most {self._settings.message_bytes} bytes")
        return str(text)

    async def _read(self, session: Session) -> Exception | None:
        """Read the client's messages until an error ends the connection, and return it."""
        bucket = TokenBucket(self._settings.message_rate, seconds=_BURST)
        while True:
            try:
                request = await self._request(bucket)
            except (UnreadableMessage, TooLarge, TooManyMessages, ClientDisconnected) as error:
                session.close()
                return error
            except Malformed as error:
                await session.reply(OutboundMessage("error", protocol.error(error)))
            else:
                await session.request(request)

    async def _request(self, bucket: TokenBucket) -> protocol.Request:
        text = await self._receive()
        if not bucket.take():
            raise TooManyMessages(f"a client sends at most {self._settings.message_rate:g} messages a second")
        await turn(_TEXT_WEIGHT * len(text))
        return protocol.parse(text, max_shapes=self._settings.max_shapes)

    async def _write(self, session: Session) -> None:
        write = socket_writer(self._websocket.scope)
        async with aclosing(session.messages()) as messages:
            async for message in messages:
                size = sum(map(len, message.pieces))
                # ASGI copies a message five times, which would be half of the cost of a large one.
                if write is None or not write(text_head(size), *message.pieces):
                    await self._send({"type": "websocket.send", "text": message.data.decode()})

    async def _until_writable(self) -> None:
        try:
            await until_writable(self._websocket.scope, self._settings.send_timeout)
        except TimeoutError as error:
            raise SlowClient(f"a message was not accepted within {self._settings.send_timeout:g} s") from error

    async def fail(self, error: EventsyncError) -> None:
        """Close because of an error. An `error` message first says when to reconnect, if that makes sense at all."""
        if isinstance(error, Unauthenticated | Forbidden):
            self._services.record_refusal(error, self._websocket.scope.get(ACCESS), f"WEBSOCKET {PATH}")
        if retry_after(error) is not None:
            try:
                await self._send({"type": "websocket.send", "text": protocol.error(error).decode()})
            except ClientDisconnected:
                return
            except SlowClient:
                evict(self._websocket.scope, Close.SLOW)
                return
        reason = error.reason if isinstance(error, Unauthenticated) else public_error(error).message
        await self.close(close_of(error), reason)

    async def close(self, code: Close, reason: str) -> None:
        """Close with a code. A client that does not accept even that is evicted."""
        try:
            await self._send({"type": "websocket.close", "code": int(code), "reason": close_reason(reason)})
        except ClientDisconnected:
            return
        except SlowClient:
            evict(self._websocket.scope, code)

    async def _send(self, message: dict[str, object]) -> None:
        try:
            async with asyncio.timeout(self._settings.send_timeout):
                await self._websocket.send(message)
        except TimeoutError as error:
            raise SlowClient(f"a message was not accepted within {self._settings.send_timeout:g} s") from error
        except (WebSocketDisconnect, OSError, RuntimeError) as error:
            # Starlette raises RuntimeError after a close was sent.
            raise ClientDisconnected from error


async def upgrade_required(_: Request) -> Response:
    """Answer a plain HTTP request with 426 (RFC 9110 section 15.5.22)."""
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Cache-Control": "no-store"}
    detail = "connect by WebSocket (RFC 6455); a client that has done so is behind a proxy that drops the upgrade"
    raise HTTPException(HTTPStatus.UPGRADE_REQUIRED, detail, headers)


routes = [
    WebSocketEndpoint(PATH, Sync(), access=AccessLevel.PRINCIPAL, name="sync"),
    Endpoint(PATH, upgrade_required, methods=["GET"], access=AccessLevel.PUBLIC),
]
