"""Waiting for events by the server's own long poll."""

from __future__ import annotations

from typing import Any

import httpx

from support.replica import log_of
from support.waiting import patience, within


async def events_of(url: str, shape: str, count: int, *, seconds: float = 10.0) -> list[dict[str, Any]]:
    """The first events of a shape since the log's beginning, as soon as there are `count`."""
    events: list[dict[str, Any]] = []
    async with within(seconds), httpx.AsyncClient(base_url=url, timeout=patience(seconds)) as client:
        position = log_of((await client.get("/readyz")).json()["position"]) + ":0"
        while len(events) < count:
            query: dict[str, str | int] = {"shape": shape, "position": position, "wait": 5}
            page = (await client.get("/v1/sync/log", params=query)).raise_for_status().json()
            events, position = events + page["events"], page["to"]
    return events
