"""Reports: the state of this server, published for all servers, and what all servers together do.

A server renews its record every few seconds. Its sessions are part of the record only while somebody looks, and no more
than `LISTED` of them; its refusals are written when there are new ones. The totals of the last hour are kept in memory.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from eventsync.access.audit import MAX_RECENT, Refusals
from eventsync.concurrency.slices import Slices
from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.concurrency.waiting import set_within
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.mongodb.client import time_limit
from eventsync.stores.stats.processes import Listing, Process, Requests, RunningProcess, SessionQuery, State
from eventsync.stores.stores import Stores
from eventsync.sync.diagnosis import Facts
from eventsync.sync.live.window import Window
from eventsync.sync.operations import CachedOverview
from eventsync.sync.service import SyncService
from eventsync.sync.sessions.inspection import short_text
from eventsync.sync.sessions.inspections import Inspections, notes_after
from eventsync.sync.sessions.session import Session
from eventsync.sync.tasks import Tasks

logger = logging.getLogger(__name__)

LISTED: Final = 500
"""Most sessions that a record lists: those that are furthest behind."""

_LISTED_SHAPES: Final = 20
"""Most shapes that a listed session names."""

_LISTED_BYTES: Final = 2048
"""Size of the texts of these shapes, together. A first one may exceed it.

So a record with all its sessions stays far below what a document may have, whatever clients ask for.
"""

_FACTS_AGE: Final = 1.0
_TIMEOUT: Final = 3.0
"""Seconds for MongoDB to answer an overview."""

_HISTORY: Final = 720
"""Samples of the totals that are kept: an hour of them, by default."""

_INSPECTED_EVERY: Final = 1.0
"""Seconds between two publications of what is inspected for other servers."""

_WEIGHT: Final = 512
"""Cost of describing a session, in bytes of work."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The work of all running servers in the period before `at`, in Unix seconds.

    `events`, `writes` and `deliveries` are rates, per second. `connections` is by transport. `p50` and `p99` are the
    seconds from a commit to the delivery of its event, over a sample; None without one.
    """

    at: float
    events: float
    writes: float
    deliveries: float
    connections: Mapping[str, int]
    lag_events: int
    p50: float | None
    p99: float | None

    def tree(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "at": round(self.at, 3),
            "events_per_second": round(self.events, 2),
            "writes_per_second": round(self.writes, 2),
            "deliveries_per_second": round(self.deliveries, 2),
            "connections": dict(self.connections),
            "lag_events": self.lag_events,
            "delivery_p50": None if self.p50 is None else round(self.p50, 4),
            "delivery_p99": None if self.p99 is None else round(self.p99, 4),
        }


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of this server at a monotonic time."""

    time: float
    log: str | None
    head: int
    written: int
    delivered: int

    @classmethod
    def now(cls, window: Window, written: int) -> Counts:
        """Read the counters."""
        return cls(time.monotonic(), window.log, window.head, written, window.figures.deliveries)


class Reports:
    """One a server process. `run` publishes; the other methods answer."""

    def __init__(
        self,
        sync: SyncService,
        stores: Stores,
        overview: CachedOverview,
        written: Callable[[], int],
        tasks: Tasks,
        refusals: Refusals,
    ) -> None:
        """`written` returns the number of writes of documents since the start."""
        self.tasks = tasks
        self._overview = overview
        self._facts: TTLCache[Facts] = TTLCache(ttl=_FACTS_AGE, max_entries=1)
        self.process = Process.new("server")
        self.history: deque[Activity] = deque(maxlen=_HISTORY)
        self._sync = sync
        self._processes = stores.stats.processes
        self._written = written
        self._refusals = refusals
        self._recorded: int | None = None
        """The number of refusals in the record, as its last renewal says."""
        self._counted = Counts.now(sync.window, written())
        self._is_watched = False
        self._inspections = Inspections(sync.sessions, sync.window)
        self._publishing: asyncio.Task[None] | None = None

    # --- publishing ---------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the record of this server until `stop`."""
        async with asyncio.TaskGroup() as group:

            async def publish() -> None:
                await self.publish()
                if self._inspections.for_others and (self._publishing is None or self._publishing.done()):
                    inspecting = self._publish_inspections(stop)
                    self._publishing = group.create_task(inspecting, name="publish what is inspected")

            try:
                await self._processes.keep(self.process, publish, stop)
            finally:
                await self.tasks.close()

    async def publish(self) -> None:
        """Renew the record, obey what was requested, and add the totals of all servers to the history."""
        sessions = await self.sessions() if self._is_watched else None
        with time_limit(_TIMEOUT):
            unread = await self._sync.unread()
        state = {**self._state(), "lag": unread or 0}
        # None is recorded at the start, or when the record has expired meanwhile.
        is_recorded = self._recorded == self._refusals.counts.total()
        refusals = None if is_recorded else self._refusals.tree()
        requests = await self._renewed(state, sessions, refusals)
        self._recorded = requests.refused
        self._obey(requests)
        running = await self._processes.running()
        self.history.append(totals(time.time(), running.of("server")))

    async def _renewed(
        self, state: State, sessions: Sequence[State] | None, refusals: Mapping[str, Any] | None
    ) -> Requests:
        """Renew the record. One that can't be written with its sessions is written without them the next time."""
        try:
            return await self._processes.renew(self.process, state, sessions, refusals)
        except Unavailable as error:
            if self._is_watched:
                self._is_watched = False
                logger.warning("%s; the next one is without its sessions", error.diagnosis)
            raise

    def _obey(self, requests: Requests) -> None:
        self._is_watched = requests.is_watched
        closing = frozenset(requests.closing)
        if closing:
            for session in self._sync.sessions.all():
                if session.id in closing:
                    close(session)
            for task_id in closing:
                self.tasks.cancel(task_id)
        for session_id in requests.inspecting:
            self._inspections.keep_for_others(session_id)

    async def _publish_inspections(self, stop: asyncio.Event) -> None:
        """Publish what other servers inspect, until they stop to ask."""
        while not stop.is_set():
            notes = await self._inspections.notes_for_others()
            try:
                for session_id in await self._processes.publish_inspections(self.process, notes):
                    self._inspections.keep_for_others(session_id)
            except Unavailable as error:
                logger.debug("%s; trying again", error.diagnosis)
            else:
                if not notes:
                    return
            await set_within(stop, _INSPECTED_EVERY)

    def _state(self) -> State:
        before, now = self._counted, Counts.now(self._sync.window, self._written())
        self._counted = now
        seconds = max(1e-3, now.time - before.time)
        # Another log begins again, and a server that starts reads some events at once.
        events = now.head - before.head if before.head and now.log == before.log else 0
        feed = self._sync.feed.state
        return {
            "live": feed.live,
            "detail": feed.detail,
            "head": now.head,
            "events": max(0, events) / seconds,
            "writes": (now.written - before.written) / seconds,
            "deliveries": (now.delivered - before.delivered) / seconds,
            "connections": self.connections(),
            "delays": self._sync.window.figures.take_delays(),
            "tasks": self.tasks.trees(),
        }

    # --- answering ----------------------------------------------------------------------------------------------------

    def connections(self) -> dict[str, int]:
        """Count the connections of this server by transport."""
        return {transport: count for transport, count in self._sync.sessions.connected.items() if count}

    async def facts(self) -> Facts:
        """Return what is known of the deployment. Read at most once a second, however many operators look."""
        return await self._facts.get("facts", self._read)

    async def _read(self) -> Facts:
        sync = self._sync
        health = running = None
        try:
            with time_limit(_TIMEOUT):
                health, running = await sync.health(), await self._processes.running()
                # A record that was written at the start says for some seconds that the server does not serve yet.
                now = sync.feed.state
                state = {"live": now.live, "detail": now.detail, "lag": health.lag_events or 0}
                running = running.updated(self.process, state)
        except Unavailable as error:
            logger.warning("no overview: %s", error.diagnosis)
        return Facts(
            health,
            await self._overview.read(),
            running,
            sync.tracking.refused,
            sync.definitions.declared,
            sync.is_open,
            self._processes.period,
        )

    async def sessions(self) -> list[dict[str, Any]]:
        """Describe the sessions of this server that are listed."""
        return await self._chosen(SessionQuery(LISTED))

    async def listings(self, query: SessionQuery) -> list[Listing]:
        """Return the sessions that are known of this server and all others.

        Other servers are asked to list theirs from now on, so that a first answer lacks them. Raises `Unavailable`.
        """
        if "shape" in query.equal:
            query = replace(query, equal={**query.equal, "shape": short_text(query.equal["shape"])})
        connections = len(self._sync.sessions)
        own = Listing(self.process.name, connections, min(connections, LISTED), await self._chosen(query))
        return [own, *await self._processes.listings(query, besides=self.process)]

    async def _chosen(self, query: SessionQuery) -> list[dict[str, Any]]:
        """Describe the listed sessions of this server that a query chooses."""
        if query.equal.get("server", self.process.name) != self.process.name:
            return []
        slices, found = Slices(), list[Session]()
        for session in await self._listed():
            if session.id > query.after and _matches(session, query.equal):
                found.append(session)
            await slices.did(_WEIGHT)
        described = []
        for session in heapq.nsmallest(query.limit, found, key=lambda session: session.id):
            described.append(self._described(session))
            await slices.did(_WEIGHT)
        return described

    async def _listed(self) -> Sequence[Session]:
        """Return the sessions that are listed: `LISTED` of those that are furthest behind, if there are more."""
        sessions = self._sync.sessions.all()
        if len(sessions) <= LISTED:
            return sessions
        slices, lags = Slices(), dict[Session, int]()
        for session in sessions:
            lags[session] = self._lag(session)
            await slices.did(_WEIGHT)
        return heapq.nlargest(LISTED, sessions, key=lags.__getitem__)

    async def inspect(self, session_id: str, after: int) -> tuple[str, dict[str, Any]] | None:
        """Begin or continue to inspect a session of any server. Return its server, and the notes after one of them.

        Those of another server begin at its next report, and come about a second late. Returns None if no server lists
        the session; others are asked to list theirs from then on. Raises `RateLimited` and `Unavailable`.
        """
        if (inspection := self._inspections.keep(session_id)) is not None:
            return self.process.name, await inspection.tree(after)
        found = await self._processes.request_inspection(session_id, besides=self.process)
        if found is None:
            await self._processes.watch_sessions()
            return None
        server, notes = found
        return server, notes_after(notes, after)

    async def refusals(self) -> dict[str, Any]:
        """Return the refusals of all servers, each since its start: counts by reason, and the newest lines.

        Those of other servers are as old as their records, and missing (not `complete`) while MongoDB does not answer.
        """
        own, name = self._refusals.tree(), self.process.name
        servers: dict[str, Mapping[str, int]] = {name: own["counts"]}
        recent = [line | {"server": name} for line in own["recent"]]
        try:
            with time_limit(_TIMEOUT):
                others = await self._processes.refusals(MAX_RECENT, besides=self.process)
        except Unavailable as error:
            logger.warning("no refusals of other servers: %s", error.diagnosis)
            is_complete = False
        else:
            servers |= {server: counts for server, counts in others.counts.items() if counts is not None}
            recent += others.recent
            is_complete = None not in others.counts.values()
        counts = sum(map(Counter, servers.values()), Counter[str]())
        return {
            "counts": dict(counts),
            "recent": sorted(recent, key=lambda line: -line["at"])[:MAX_RECENT],
            "servers": [{"server": server, "count": sum(of.values())} for server, of in sorted(servers.items())],
            "complete": is_complete,
        }

    async def all_tasks(self) -> list[dict[str, Any]]:
        """Describe the tasks of all servers, each with its `server`, the newest first. Raises `Unavailable`."""
        found = [task | {"server": self.process.name} for task in self.tasks.trees()]
        for server in (await self._processes.running()).of("server"):
            if server.process != self.process:
                found += [{**task, "server": server.process.name} for task in server.state.get("tasks", ())]
        return sorted(found, key=lambda task: -task["began"])

    async def cancel_elsewhere(self, task_id: str) -> bool:
        """Ask the server that runs a task to cancel it. Return False without such a server. Raises `Unavailable`."""
        return await self._processes.request_cancel(task_id, besides=self.process)

    async def close(self, session_id: str) -> str | None:
        """Close a session of any server. Return its server: a session of another one ends within seconds.

        Returns None if no session has this id. Raises `Unavailable`.
        """
        for session in self._sync.sessions.all():
            if session.id == session_id:
                close(session)
                return self.process.name
        return await self._processes.request_close(session_id, besides=self.process)

    def _lag(self, session: Session) -> int:
        """Return the events of the log between a session and the head; 0 if its shapes have no newer event."""
        window, behind = self._sync.window, 0
        for shape, position in session.vector.items():
            if position.log == window.log_of(shape) and not window.is_current(shape, position.seq):
                behind = max(behind, window.head - position.seq)
        return behind

    def _described(self, session: Session) -> dict[str, Any]:
        vector, shapes = session.vector, _shapes(session)
        return {
            "id": session.id,
            "client_id": session.client.id if session.client.named else None,
            "sub": session.access.principal.sub,
            "roles": sorted(session.access.roles),
            "transport": session.client.transport,
            "since": round(session.opened, 3),
            "lag_events": self._lag(session),
            "shapes": [
                {"shape": text, "position": str(vector[shape]) if shape in vector else None}
                for shape, text in shapes.items()
            ],
            "more_shapes": sum(1 for _ in session.shapes) - len(shapes),
        }


def _shapes(session: Session) -> dict[Shape, str]:
    """Return the shapes of a session that its description names, and their texts."""
    shapes, size = dict[Shape, str](), 0
    for shape in islice(session.shapes, _LISTED_SHAPES):
        text = short_text(str(shape))
        size += len(text.encode())
        if shapes and size > _LISTED_BYTES:
            break
        shapes[shape] = text
    return shapes


def _matches(session: Session, equal: Mapping[str, str]) -> bool:
    """Return True if a session of this server has these texts. See `SessionQuery`."""
    texts = {"id": session.id, "sub": session.access.principal.sub, "transport": session.client.transport}
    return all(texts.get(name, text) == text for name, text in equal.items()) and (
        "shape" not in equal or equal["shape"] in _shapes(session).values()
    )


def close(session: Session) -> None:
    """End a session as an overloaded server does: its client waits a while, and resumes."""
    session.fail(Unavailable.busy("an operator has closed this connection", 1.0, 5.0))


def totals(at: float, servers: Iterable[RunningProcess]) -> Activity:
    """Sum up what servers have published."""
    connections: dict[str, int] = {}
    delays: list[float] = []
    events = writes = deliveries = 0.0
    behind = 0
    for server in servers:
        state = server.state
        # Every server follows the whole log, and each as fast as it can.
        events = max(events, state["events"])
        writes += state["writes"]
        deliveries += state["deliveries"]
        # A server of an earlier version has none.
        behind = max(behind, state.get("lag", 0))
        delays += state["delays"]
        for transport, count in state["connections"].items():
            connections[transport] = connections.get(transport, 0) + count
    delays.sort()
    return Activity(
        at, events, writes, deliveries, connections, behind, _quantile(delays, 0.5), _quantile(delays, 0.99)
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
