"""`/v1/admin/…` of a server, for commands with `--url`. Without the client package: one request, no retry."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any, Final

from eventsync.cli.console import printable
from eventsync.cli.options import check_credential
from eventsync.errors import EventsyncError, Unavailable
from eventsync.urls import server_parts

_TIMEOUT: Final = 15.0
_MAX_ANSWER: Final = 64 * 1024 * 1024


class AdminRefused(EventsyncError):
    """A server refuses an operator's request; the message is its own."""

    code = "refused"


def ask(url: str, token: str | None, path: str, method: str = "GET") -> Any:
    """Return the JSON of an answer, or None for one without a body.

    Raises `ConfigurationError`, `AdminRefused`, and `Unavailable` if the server is not reached.
    """
    parts = server_parts(url)
    check_credential(token)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection = _connection(parts.scheme, str(parts.hostname), parts.port)
    try:
        connection.request(method, parts.path.rstrip("/") + path, headers=headers)
        answer = connection.getresponse()
        status, body = answer.status, answer.read(_MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url} is not reached: {error}") from error
    finally:
        connection.close()
    try:
        tree = json.loads(body) if body else None
    except ValueError as error:
        raise Unavailable(f"{url} answers {status}, and no JSON: is it eventsync?") from error
    if status >= 300:
        detail = tree.get("detail") if isinstance(tree, dict) else None
        raise AdminRefused(f"{url} answers {status}: {printable(str(detail or 'no reason'))}")
    return tree


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
