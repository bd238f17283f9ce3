"""All clients of a long log: what each of them got, which has to be what was written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httpx

from scripts.bench.latency import COLLECTION as OTHER
from scripts.bench.years_client import Client, WrongError, read_log, refused
from scripts.bench.years_history import Document, History
from scripts.bench.years_system import MIB, LongLog, Rows, once


class Audience:
    """Clients of the server at `url`. Raises `WrongError` where one of them has not got what it should have."""

    def __init__(self, url: str, log: LongLog, history: History) -> None:
        self._url = url
        self._log = log
        self._history = history

    async def served(self) -> bool:
        """Whether the server answers, and knows the log."""
        async with httpx.AsyncClient(base_url=self._url) as client:
            try:
                # Without a worker `/readyz` never is; a position of no log is refused once the feed is there.
                answer = await client.get("/v1/sync/log", params={"shape": OTHER, "position": "none:0"})
            except httpx.TransportError:
                return False
        return answer.status_code == 409

    async def caught_up(self, positions: Sequence[int], say: Callable[[str], None]) -> Rows:
        """One client for each position, one after the other."""
        final, rows = await self._state(), {}
        for position, last in self._history.states(positions):
            client = Client(self._log.name, position, self._history.rows(last), self._history.head)
            seconds = await client.catch_up(self._url)
            name, behind = f"{position:,}: {' + '.join(client.kinds)}", self._history.head - position
            self._check(client, final, name)
            say(f"  {name}, {seconds:.2f} s, {client.bytes / MIB:.1f} MiB")
            figures = {"behind": behind, "seconds": seconds, "MiB": client.bytes / MIB}
            rows[name] = once(figures | {"documents": client.documents, "events": client.events})
        return rows

    async def read(self, horizon: int) -> dict[str, list[float]]:
        """One client for every event that is kept; and what is before them has to be refused."""
        if horizon and not await refused(self._url, self._log.name, horizon - 1):
            raise WrongError(f"events after {horizon - 1} are served, and the horizon is {horizon}")
        seconds, size = await read_log(self._url, self._log.name, horizon, self._history)
        count = self._history.head - horizon
        return once({"events": count, "seconds": seconds, "events/s": count / seconds, "MiB": size / MIB})

    async def _state(self) -> dict[str, Document]:
        """What the collection is, which has to be what was written."""
        found = {f"int:{row['_id']}": row async for row in self._log.stores.data["docs"].find()}
        _, last = next(self._history.states([self._history.head]))
        if found != self._history.rows(last):
            raise WrongError("the collection is not what was written")
        return found

    def _check(self, client: Client, final: dict[str, Document], name: str) -> None:
        if client.seq < self._history.head:
            raise WrongError(f"{name}: it is live at {client.seq}, and {self._history.head} events were made")
        if client.rows != final:
            keys = [key for key in final.keys() | client.rows.keys() if client.rows.get(key) != final.get(key)]
            raise WrongError(f"{name}: {len(keys)} documents differ, as {keys[:3]}")
