"""The log of a shape: its events page by page, without a copy of the documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from eventsync_client.http import Http, body_of
from eventsync_client.replica import Json

_SLACK: Final = 15.0
"""Seconds that the answer of a page may take beyond its `wait`."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Events of a shape, in order, as on the wire, and the positions before and after them.

    `live`: at `end` there was no further event. `end` is also ahead of the last event, if what follows it is none of
    the shape's.
    """

    start: str
    end: str
    events: list[Json]
    live: bool


class EventLog:
    """The events of a shape, each of them, however far back. Where they are not kept any more, `LogReset` says so."""

    def __init__(self, http: Http, shape: str) -> None:
        self.shape = shape
        self._http = http

    async def page(
        self, after: str | None = None, *, wait: float = 0.0, limit: int | None = None, repeat: bool = True
    ) -> LogPage:
        """Return the events after a position, or those from now on; the events of a transaction are on one page.

        `wait`: seconds to wait for an event if there is none. `limit`: events at most; as the server has it (1,000)
        without it. A request that fails temporarily is repeated for 15 s beyond `wait`, unless `repeat` is False.

        Raises `LogReset` if the log does not continue from `after`, else `RequestError` and its other subclasses.
        """
        query: dict[str, Any] = {"shape": self.shape, "position": after, "limit": limit, "wait": wait or None}
        answer = await self._http.request(
            "GET",
            "/v1/sync/log",
            query={name: str(value) for name, value in query.items() if value is not None},
            timeout=wait + _SLACK,
            repeat=repeat,
        )
        page = body_of(answer)
        return LogPage(page["from"], page["to"], page["events"], page["live"])
