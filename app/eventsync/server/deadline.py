"""A limit on the time that a request may stay unanswered.

Each wait below has a limit of its own, and several can follow each other: server selection, a connection, a command, a
second attempt. This limit covers all of them together.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventsync.concurrency.timeouts import Timeout
from eventsync.errors import Unavailable
from eventsync.server.problems import respond

_KEY: Final = "eventsync.deadline"


class Deadline:
    """The time of one request. It runs from the end of the request's body to the beginning of the answer."""

    def __init__(self, seconds: float) -> None:
        self._seconds: float | None = seconds
        self._timeout = Timeout()

    def lift(self) -> None:
        """Remove the deadline, for an endpoint that streams and limits each of its steps."""
        if self._seconds is not None:
            self._seconds = None
            self._timeout.stop()

    def extend(self, seconds: float) -> None:
        """Add seconds for an endpoint that is asked to wait."""
        if self._seconds is not None:
            self._seconds += seconds
            self._start()

    def _start(self) -> None:
        if self._seconds is not None:
            self._timeout.start(self._seconds)

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> bool:
        """Run `app`. Return False if the deadline passed before it answered; `app` is then cancelled."""
        scope[_KEY] = self

        async def received() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                # The time of a slow upload is the client's own, and has a limit of its own.
                self._start()
            return message

        async def sent(message: Message) -> None:
            # The 503 answer is on its way: a late answer would be a second one.
            if not self._timeout.is_expired:
                self.lift()
                await send(message)

        try:
            with self._timeout:
                if not _has_body(scope):
                    self._start()
                await app(scope, received, sent)
        except TimeoutError:
            if not self._timeout.is_expired:
                raise
        # An application may catch its cancellation and answer an error, which `sent` has discarded.
        return not self._timeout.is_expired


def deadline_of(connection: HTTPConnection) -> Deadline:
    """Return the deadline of the request that is being answered."""
    found = connection.scope[_KEY]
    if not isinstance(found, Deadline):
        raise TypeError("the application runs without its deadlines")
    return found


class Deadlines:
    """ASGI middleware that answers 503 if `seconds` pass between a request and the beginning of its answer."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not await Deadline(self._seconds).run(self._app, scope, receive, send):
            await respond(_late(scope["method"], self._seconds))(scope, receive, send)


def _late(method: str, seconds: float) -> Unavailable:
    outcome = "" if method in {"GET", "HEAD", "OPTIONS"} else "; the outcome is unknown, the write may have been made"
    return Unavailable(f"there was no answer within {seconds:g} s, of MongoDB or of a helper process{outcome}")


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ") != b"")
        for name, value in scope["headers"]
    )
