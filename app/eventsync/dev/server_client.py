"""The supervisor's client of the server's HTTP API."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from eventsync.errors import Unavailable

_TIMEOUT: Final = 15.0


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """A response: its status, and its decoded JSON body or None."""

    status: int
    body: Any

    @property
    def detail(self) -> str:
        """The server's text about its state or about the error."""
        found = self.body.get("detail") or self.body.get("title") if isinstance(self.body, dict) else None
        return str(found or f"HTTP {self.status}")


class ServerClient:
    """Requests to one server, each on a connection and in a thread of its own. `credential` is a service key."""

    def __init__(self, host: str, port: int) -> None:
        # A wildcard address can be listened on, but not connected to.
        self.host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
        self.port = port
        self.credential: str | None = None

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def get(self, path: str) -> ServerAnswer:
        """Send a GET request. Raises `Unavailable` without an answer."""
        return await asyncio.to_thread(self._request, "GET", path, None, {})

    async def create(self, collection: str, document: bytes, key: str) -> ServerAnswer:
        """Create a document from Extended JSON. `key` is the idempotency key. Raises as `get`."""
        path = f"/v1/collections/{quote(collection, safe='')}/documents"
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "Prefer": "return=minimal"}
        return await asyncio.to_thread(self._request, "POST", path, document, headers)

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> ServerAnswer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT)
        identity = {"Authorization": f"Bearer {self.credential}"} if self.credential else {}
        try:
            connection.request(method, path, body, {**headers, **identity})
            response = connection.getresponse()
            return ServerAnswer(response.status, _json(response.read()))
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"the server does not answer: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
