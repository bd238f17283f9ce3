"""WebSocket connections of the `websockets` library, with time limits that suit a busy machine."""

from __future__ import annotations

from typing import Any

from websockets.asyncio import client

from support.waiting import patience


def connect(url: str, **options: Any) -> client.connect:
    """Connect as `websockets` does; no ping of the client's own ends a connection that is only slow."""
    limits = {"open_timeout": patience(10), "close_timeout": patience(10), "ping_interval": None}
    return client.connect(url, **(limits | options))
