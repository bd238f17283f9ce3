"""Endpoints: routes that declare who may use them and what they accept, and check each request's head against it.

A server must not silently ignore what it does not support: a misspelt `limit` would return another page, an ignored
condition would lose an update, and an encoded body would be stored as another one.

Source: https://www.rfc-editor.org/rfc/rfc9110
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventsync.access.access import Access
from eventsync.access.audit import NOT_OPERATOR
from eventsync.api import conditions
from eventsync.api.authentication import authenticate
from eventsync.api.permissions import NotGranted
from eventsync.api.state import ACCESS, begin_access, follow_access, services_of
from eventsync.errors import EventsyncError, Forbidden, Malformed, Unauthenticated, UnsupportedMediaType
from eventsync.server.observing import TEMPLATE
from eventsync.server.problems import on_error

ROUTE: Final = "eventsync.route"
"""The key of the ASGI scope under which the path of the endpoint stands, where rules apply."""

SAFE = frozenset({"GET", "HEAD"})

_CHECKED: Final = frozenset(
    {b"content-encoding", b"content-range", b"if-match", b"if-none-match", b"if-unmodified-since"}
)
"""The headers that an endpoint checks before its handler."""


Answer = Callable[[Request], Awaitable[Response]]
"""The function of an endpoint that answers by a response."""


class AccessLevel(Enum):
    """The callers that may use an endpoint once rules are applied. Without rules, everybody may use every endpoint."""

    PUBLIC = "public"
    """Everybody. The answer contains no data of a collection."""

    PRINCIPAL = "principal"
    """Everybody who is authenticated. The endpoint shows and changes what the rules allow this principal."""

    OBSERVER = "observer"
    """Principals with the role `observer` or `operator`. The endpoint changes nothing."""

    OPERATOR = "operator"
    """Principals with the role `operator`. The endpoint does not apply the rules of collections."""


class Endpoint(Route):
    """A route that accepts the query parameters `query` once each, and `repeated` any number of times.

    `access` has no default: a new endpoint is closed until its author has decided who may use it.

    A `tagged` endpoint evaluates conditions itself. The responses of all others have no entity tag. An endpoint that
    `writes` documents is refused under overload, before its body is read; it counts its writes by `Services.writes`. An
    endpoint that `authenticates` does so by itself, because it reports temporary errors in another way. One that
    `is_long` may take minutes: it counts as a connection of its principal, and not as one of its requests.
    """

    def __init__(  # noqa: PLR0913 - each is something that an endpoint declares
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Sequence[str],
        access: AccessLevel,
        name: str | None = None,
        query: Iterable[str] = (),
        repeated: Iterable[str] = (),
        tagged: bool = False,
        writes: bool = False,
        authenticates: bool = False,
        is_long: bool = False,
    ) -> None:
        super().__init__(path, endpoint, methods=methods, name=name)
        self._answer = endpoint if inspect.iscoroutinefunction(endpoint) else None
        self.access = access
        self.query = frozenset(query)
        self.repeated = frozenset(repeated)
        self.tagged = tagged
        self.writes = writes
        self.authenticates = authenticates
        self.is_long = is_long

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[TEMPLATE] = self.path
        request = Request(scope, receive)
        if self.access is AccessLevel.PUBLIC or scope["method"] not in (self.methods or ()):
            await self._serve(request, send)
        elif (access := services_of(request).access.open_access) is not None:
            begin_access(scope, access)
            await self._serve(request, send)
        else:
            await self._serve_principal(request, private(send))

    async def _serve_principal(self, request: Request, send: Send) -> None:
        """Serve a request under rules, within the budget of its principal."""
        budgets, scope = services_of(request).budgets, request.scope
        scope[ROUTE] = self.path
        if self.authenticates:
            await self._serve(request, send)
            return
        access = await authenticate(request)
        begin_access(scope, access, self._require)
        if self.is_long:
            with budgets.connection(access.principal.sub):
                await self._serve(request, send)
        else:
            async with budgets.request(access.principal.sub):
                follow_access(request)  # it may have waited for its turn
                await self._serve(request, send)

    def _require(self, access: Access) -> None:
        """Raise `Forbidden` for an access that may not use the endpoint."""
        if self.access is AccessLevel.OPERATOR and not access.is_operator:
            raise Forbidden("this is for operators: principals with the role `operator`", reason=NOT_OPERATOR)
        if self.access is AccessLevel.OBSERVER and not access.is_observer:
            raise Forbidden("this is for the roles `operator` and `observer`", reason=NOT_OPERATOR)

    async def _serve(self, request: Request, send: Send) -> None:
        scope = request.scope
        if scope["method"] in (self.methods or ()):
            self.check_query(request)
            # One pass over the names, because nearly all requests have none of these headers.
            if not _CHECKED.isdisjoint([name for name, _ in scope["headers"]]) and self._is_unchanged(request):
                await Response(status_code=304)(scope, request.receive, send)
                return
            if self.writes:
                services_of(request).writes.check()
            if self._answer is not None:
                await self._respond(self._answer, request, send)
                return
        await super().handle(scope, request.receive, send)

    async def _respond(self, answer: Answer, request: Request, send: Send) -> None:
        """Send an answer as Starlette does, without its second request and its second pair of wrappers."""
        try:
            response = await answer(request)
        except EventsyncError as error:
            response = await on_eventsync_error(request, error)
        await response(request.scope, request.receive, send)

    def check_query(self, request: Request) -> None:
        """Raise `Malformed` for a query parameter that this endpoint does not take."""
        check_query(request, self.query, self.repeated)

    def _is_unchanged(self, request: Request) -> bool:
        """Check the headers. Return True if they ask for no answer to a safe method."""
        _check_coding(request.headers)
        if request.method not in SAFE:
            _check_write(request.headers, tagged=self.tagged)
            return False
        return not self.tagged and conditions.unchanged(request, None)


class WebSocketEndpoint(WebSocketRoute):
    """A route for WebSockets. Browsers send no header with one, so the endpoint itself authenticates `access`."""

    def __init__(self, path: str, endpoint: ASGIApp, *, access: AccessLevel, name: str | None = None) -> None:
        super().__init__(path, endpoint, name=name)
        self.access = access


async def on_eventsync_error(request: Request, error: Exception) -> Response:
    """Answer an error that ends a request, and record it if it is the refusal of a principal."""
    route: str | None = request.scope.get(ROUTE)
    if route is not None and isinstance(error, Unauthenticated | Forbidden | NotGranted):
        services_of(request).record_refusal(error, request.scope.get(ACCESS), f"{request.method} {route}")
    return await on_error(request, error)


def private(send: Send) -> Send:
    """Return a `send` that keeps what a principal is shown out of shared caches.

    A browser may keep it for the same credential, and asks each time whether it is still shown.
    """

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if "no-store" not in headers.get("cache-control", "no-store"):
                headers["Cache-Control"] = "private, no-cache"
            for name in ("Authorization", "Cookie"):
                headers.add_vary_header(name)
        await send(message)

    return sent


def check_query(connection: HTTPConnection, once: frozenset[str], repeated: frozenset[str] = frozenset()) -> None:
    """Raise `Malformed` for an unknown query parameter, and for a repeated one that is not in `repeated`."""
    if not connection.scope.get("query_string"):
        return
    counted = Counter(name for name, _ in connection.query_params.multi_items())
    for name, count in counted.items():
        if name not in once and name not in repeated:
            taken = ", ".join(sorted(once | repeated)) or "none"
            raise Malformed(f"there is no query parameter {name[:64]!r} here; this takes {taken}")
        if count > 1 and name not in repeated:
            raise Malformed(f"the query parameter {name} is given {count} times; once is enough")


def _check_coding(headers: Headers) -> None:
    codings = [part.strip().lower() for line in headers.getlist("content-encoding") for part in line.split(",")]
    for coding in codings:
        if coding not in {"", "identity"}:
            raise UnsupportedMediaType(f"Content-Encoding is {coding[:64]}; bodies are taken as they are (identity)")


def _check_write(headers: Headers, *, tagged: bool) -> None:
    """Raise `Malformed` for headers that would lose an update if the write ignored them."""
    if "content-range" in headers:
        raise Malformed("Content-Range: a part of a document can't be put; PATCH changes a part")
    conditional = [name for name in ("If-Match", "If-None-Match") if name in headers]
    if conditional and not tagged:
        raise Malformed(f"{conditional[0]} has no meaning here: a condition is about one document, or one operation")
    # RFC 9110 section 13.1.4 ignores it without a modification date, but a client that sends it relies on it.
    if "if-unmodified-since" in headers and not conditional:
        raise Malformed("If-Unmodified-Since has no meaning here: nothing has a modification date; If-Match has")
