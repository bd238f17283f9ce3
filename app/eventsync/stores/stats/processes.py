"""The processes of eventsync that run now: the collection `processes`, one record a server or worker.

`{_id: name, kind, version, began, at, state, sessions, refusals, watched, closing, inspecting, inspected}`. Each
process renews its own record, and MongoDB removes one that is not renewed. A record says what its process does, so that
any server can answer for all of them. `refusals`, of a server, are written only when there are new ones. A record also
carries requests to its process: to list its sessions for a while (`watched`), to close some (`closing`), and to inspect
some (`inspecting`: since when, by session), whose notes are in `inspected`. They are taken with the next renewal.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from eventsync import __version__
from eventsync.concurrency.waiting import set_within
from eventsync.errors import Unavailable
from eventsync.mongodb.client import time_limit
from eventsync.mongodb.clocks import NOW, ago
from eventsync.mongodb.errors import translated
from eventsync.mongodb.ttl_index import ensure_expiry

logger = logging.getLogger(__name__)

LIVE_FOR: Final = 4
"""Periods after its last renewal for which a process counts as running."""

_KEPT: Final = 300.0
"""Seconds after its last renewal at which a record is removed."""

_WATCHED_FOR: Final = 30.0
"""Seconds for which a process lists its sessions after somebody has asked."""

_ASK_EVERY: Final = _WATCHED_FOR / 2
"""Seconds after which processes are asked again, so that they do not stop while somebody looks."""

_TIMEOUT: Final = 5.0
_MAX_CLOSING: Final = 1000
_MAX_PROCESSES: Final = 1000
"""Most records in one answer."""

_OF_INSPECTIONS: Final = ("inspected", "inspecting")

_SESSIONS: Final = {"$ifNull": ["$sessions", []]}
_CONNECTIONS: Final = {"$objectToArray": "$state.connections"}
_INSPECTING: Final = {
    "$arrayToObject": {
        "$filter": {
            "input": {"$objectToArray": {"$ifNull": ["$inspecting", {}]}},
            "cond": {"$gt": ["$$this.v", ago(_WATCHED_FOR)]},
        }
    }
}
"""The requests of inspections that are not older than that."""

Kind = Literal["server", "worker"]
State = Mapping[str, Any]
"""A tree of texts, numbers and lists, as small as its process can make it."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its name, which no other process has: `host:pid:random`."""

    name: str
    kind: Kind

    @classmethod
    def new(cls, kind: Kind) -> Process:
        """Name this process."""
        return cls(f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}", kind)


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests to a process since its last renewal. `closing` and `inspecting` are ids of sessions."""

    is_watched: bool = False
    closing: Sequence[str] = ()
    inspecting: Sequence[str] = ()
    refused: int | None = None
    """The number of refusals in the record; None if it has none yet."""


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """The record of a process. `age` and `uptime` are in seconds, by MongoDB's clock."""

    process: Process
    version: str
    age: float
    uptime: float
    state: State


@dataclass(frozen=True, slots=True)
class RunningProcesses:
    """All running processes by name."""

    processes: Sequence[RunningProcess]

    def of(self, kind: Kind) -> list[RunningProcess]:
        """Return those of a kind."""
        return [each for each in self.processes if each.process.kind == kind]

    def updated(self, process: Process, state: State) -> RunningProcesses:
        """Return them with parts of one's state as it is now, which is newer than its record."""
        return RunningProcesses(
            [replace(one, state={**one.state, **state}) if one.process == process else one for one in self.processes]
        )


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Chooses at most `limit` of the listed sessions, by id, after an id.

    `equal` has the texts that each must have, by `id`, `sub`, `transport`, `shape` or `server`.
    """

    limit: int = 1
    after: str = ""
    equal: Mapping[str, str] = field(default_factory=dict)

    def chosen(self) -> dict[str, Any]:
        """Return the expression of the chosen sessions of a record."""
        conditions: list[dict[str, Any]] = [{"$gt": ["$$this.id", {"$literal": self.after}]}]
        for name, text in self.equal.items():
            value = {"shape": "$$this.shapes.shape", "server": "$_id"}.get(name, f"$$this.{name}")
            conditions.append({"$in" if name == "shape" else "$eq": [{"$literal": text}, value]})
        matching = {"$filter": {"input": _SESSIONS, "cond": {"$and": conditions}}}
        return {"$slice": [{"$sortArray": {"input": matching, "sortBy": {"id": 1}}}, self.limit]}


@dataclass(frozen=True, slots=True)
class Listing:
    """The sessions that are known of a server: how many are open and `listed`, and those that a query chose."""

    server: str
    connections: int
    listed: int
    sessions: Sequence[State]


@dataclass(frozen=True, slots=True)
class OthersRefusals:
    """The refusals of other servers: the counts by reason of each, and the newest lines of all, the newest first.

    A server of an earlier version publishes none, and its counts are None.
    """

    counts: Mapping[str, Mapping[str, int] | None]
    recent: Sequence[Mapping[str, Any]]


class ProcessStore:
    """Reads and writes the records. Raises `Unavailable`."""

    def __init__(self, database: AsyncDatabase[Any], period: float) -> None:
        """`period`: seconds between two renewals of a record."""
        self.period = period
        self._processes: AsyncCollection[Any] = database["processes"]
        self._running: Final = {"$expr": {"$gte": ["$at", ago(LIVE_FOR * period)]}}
        """The condition that a process was heard lately."""

    async def ensure_indexes(self) -> None:
        """Create the TTL index that removes the records of processes that have ended."""
        with translated("the index of processes can't be made"):
            await ensure_expiry(self._processes, "at", _KEPT)

    async def renew(
        self,
        process: Process,
        state: State,
        sessions: Sequence[State] | None = None,
        refusals: Mapping[str, Any] | None = None,
    ) -> Requests:
        """Write the record of a process. Return what was requested of it since the last call.

        `refusals` has `counts` and `recent`, the newest first; None leaves those in the record.
        """
        # Names and states are literals: an expression would take a text that begins with `$` for a field.
        fields = {
            "kind": process.kind,
            "version": __version__,
            "began": {"$ifNull": ["$began", NOW]},
            "at": NOW,
            "state": {"$literal": state},
            "sessions": {"$literal": None if sessions is None else list(sessions)},
            "requested": {"$ifNull": ["$closing", []]},
            "closing": [],
            "is_watched": {"$gt": [{"$ifNull": ["$watched", None]}, ago(_WATCHED_FOR)]},
            "inspecting": _INSPECTING,
        }
        if refusals is not None:
            fields["refusals"] = {"$literal": refusals}
        with translated("the record of this process can't be written"), time_limit(_TIMEOUT):
            row = await self._processes.find_one_and_update(
                {"_id": process.name},
                [{"$set": fields}],
                {"requested": 1, "is_watched": 1, "inspecting": 1, "refusals.counts": 1},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        if row is None:
            return Requests()
        refused = sum(row["refusals"]["counts"].values()) if "refusals" in row else None
        return Requests(bool(row["is_watched"]), tuple(row["requested"]), tuple(row["inspecting"]), refused)

    async def keep(self, process: Process, renew: Callable[[], Awaitable[object]], stop: asyncio.Event) -> None:
        """Call `renew`, which renews the record, each period until `stop`; then remove the record.

        While MongoDB does not answer, the record expires.
        """
        failures = 0
        while not stop.is_set():
            try:
                await renew()
            except Unavailable as error:
                failures += 1
                # Once: from now on the others count this process as ended.
                level = logging.WARNING if failures == LIVE_FOR else logging.DEBUG
                logger.log(level, "%s; trying again", error.diagnosis)
            else:
                failures = 0
            await set_within(stop, self.period)
        try:
            await self.remove(process)
        except Unavailable as error:
            logger.debug("%s; it will expire", error.diagnosis)

    async def remove(self, process: Process) -> None:
        """Remove the record of a process that ends."""
        # Short: a process that ends must not wait for a MongoDB that is gone.
        with translated("the record of this process can't be removed"), time_limit(1.0):
            await self._processes.delete_one({"_id": process.name})

    async def running(self) -> RunningProcesses:
        """Return the processes that run, by name."""
        pipeline: list[dict[str, Any]] = [
            {"$match": self._running},
            {"$sort": {"_id": 1}},
            {"$limit": _MAX_PROCESSES},
            {"$unset": ["requested", "closing", "inspecting", "inspected", "sessions", "refusals"]},
            {"$set": {"now": NOW}},
        ]
        with translated("the processes can't be read"):
            rows = await (await self._processes.aggregate(pipeline)).to_list()
        return RunningProcesses([_process(row) for row in rows])

    async def listings(self, query: SessionQuery, *, besides: Process) -> list[Listing]:
        """Return the sessions that the running servers list, and ask them to list theirs from now on.

        `besides` is asked for the sake of others, and left out: it knows its own sessions.
        """
        pipeline: list[dict[str, Any]] = [
            {"$match": {"kind": "server", **self._running}},
            {"$sort": {"_id": 1}},
            {"$limit": _MAX_PROCESSES},
            {
                "$project": {
                    "connections": {"$sum": {"$map": {"input": _CONNECTIONS, "in": "$$this.v"}}},
                    "listed": {"$size": _SESSIONS},
                    "sessions": {"$cond": [{"$eq": ["$_id", {"$literal": besides.name}]}, [], query.chosen()]},
                    "is_asked": {"$gt": [{"$ifNull": ["$watched", None]}, ago(_ASK_EVERY)]},
                }
            },
        ]
        with translated("the sessions of the servers can't be read"):
            rows = await (await self._processes.aggregate(pipeline)).to_list()
        if not all(row["is_asked"] for row in rows):
            await self.watch_sessions()
        return [
            Listing(row["_id"], row["connections"], row["listed"], row["sessions"])
            for row in rows
            if row["_id"] != besides.name
        ]

    async def refusals(self, limit: int, *, besides: Process) -> OthersRefusals:
        """Return the refusals of the running servers but `besides`, with at most `limit` lines."""
        line = {"$mergeObjects": ["$refusals.recent", {"server": "$_id"}]}
        newest = [
            {"$unwind": "$refusals.recent"},
            {"$replaceRoot": {"newRoot": line}},
            {"$sort": {"at": -1, "server": 1}},
            {"$limit": limit},
        ]
        pipeline: list[dict[str, Any]] = [
            {"$match": {"kind": "server", "_id": {"$ne": besides.name}, **self._running}},
            {"$sort": {"_id": 1}},
            {"$limit": _MAX_PROCESSES},
            {"$project": {"refusals": 1}},
            {"$facet": {"servers": [{"$project": {"counts": "$refusals.counts"}}], "recent": newest}},
        ]
        with translated("the refusals of the servers can't be read"):
            (found,) = await (await self._processes.aggregate(pipeline)).to_list()
        return OthersRefusals({row["_id"]: row.get("counts") for row in found["servers"]}, found["recent"])

    async def watch_sessions(self) -> None:
        """Ask all processes to list their sessions for a while."""
        with translated("the processes can't be asked for their sessions"):
            await self._processes.update_many({"kind": "server"}, [{"$set": {"watched": NOW}}])

    async def request_close(self, session: str, *, besides: Process) -> str | None:
        """Ask the process that lists a session to close it. Return the name of the process, or None without one.

        `besides` is not asked: it knows its own sessions.
        """
        with translated("the session can't be closed"):
            return await self._request_end({"sessions.id": session}, session, besides)

    async def request_cancel(self, task: str, *, besides: Process) -> bool:
        """Ask the process that runs a task to cancel it. Return False without one."""
        running = {"state.tasks": {"$elemMatch": {"id": task, "state": "running"}}}
        with translated("the task can't be cancelled"):
            return await self._request_end(running, task, besides) is not None

    async def _request_end(self, of: Mapping[str, Any], name: str, besides: Process) -> str | None:
        """Add a session or a task to those that its process is to end. Return the name of the process, or None."""
        closing = {"$slice": [{"$setUnion": [{"$ifNull": ["$closing", []]}, [{"$literal": name}]]}, _MAX_CLOSING]}
        row = await self._processes.find_one_and_update(
            {"_id": {"$ne": besides.name}, **of, **self._running},
            [{"$set": {"closing": closing}}],
            {"_id": 1},
        )
        return None if row is None else str(row["_id"])

    async def request_inspection(self, session: str, *, besides: Process) -> tuple[str, State | None] | None:
        """Ask the process that lists a session to inspect it for a while.

        Return the name of the process and what it has noted, which is None at first; or None without such a process.
        `session` is hexadecimal. `besides` is not asked.
        """
        known = [{"sessions.id": session}, *({f"{name}.{session}": {"$exists": True}} for name in _OF_INSPECTIONS)]
        with translated("the session can't be inspected"), time_limit(_TIMEOUT):
            row = await self._processes.find_one_and_update(
                {"_id": {"$ne": besides.name}, "$or": known, **self._running},
                [{"$set": {f"inspecting.{session}": NOW}}],
                {f"inspected.{session}": 1},
            )
        return None if row is None else (str(row["_id"]), row.get("inspected", {}).get(session))

    async def publish_inspections(self, process: Process, notes: Mapping[str, State]) -> Sequence[str]:
        """Publish what a process has noted, by session. Return the sessions that somebody still inspects."""
        fields = {"inspected": {"$literal": dict(notes)} if notes else "$$REMOVE", "inspecting": _INSPECTING}
        with translated("what was inspected can't be written"), time_limit(_TIMEOUT):
            row = await self._processes.find_one_and_update(
                {"_id": process.name},
                [{"$set": fields}],
                {"inspecting": 1},
                return_document=ReturnDocument.AFTER,
            )
        return () if row is None else tuple(row["inspecting"])


def _process(row: Mapping[str, Any]) -> RunningProcess:
    age, uptime = ((row["now"] - row[name]).total_seconds() for name in ("at", "began"))
    process = Process(row["_id"], row["kind"])
    return RunningProcess(process, row["version"], max(0.0, age), uptime, row["state"])
