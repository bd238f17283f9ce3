"""The logs of a stream and their checkpoints: the collections `logs` and `heads`.

A log is one incarnation of the numbering. A new log begins only when the old one cannot be continued. Clients then get
a reset and a snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo import DESCENDING, IndexModel
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from eventsync.domain.positions import LogId, Seq, new_log_id
from eventsync.domain.replay import Damaged
from eventsync.errors import EventsyncError, Unavailable
from eventsync.mongodb.change_stream import Token
from eventsync.mongodb.clocks import NOW
from eventsync.mongodb.connections import pinned
from eventsync.mongodb.errors import translated
from eventsync.mongodb.journal import flush_journal
from eventsync.stores.log.stored_event import UNREADABLE

_FORMER = 10

_BEGINNINGS = 50
"""Most beginnings of logs in an answer."""

STREAM = "main"
"""The one stream that holds all tracked collections."""


@dataclass(frozen=True, slots=True)
class Log:
    """One log: the `number`-th of its stream, stored in the MongoDB deployment `cluster`."""

    id: LogId
    number: int
    cluster: str
    reason: str
    reset: str | None = None
    """The reason of a request for a new log after this one, if there is a request."""


@dataclass(frozen=True, slots=True)
class LogBeginning:
    """The beginning of a log, and what ended with it: `previous`, whose newest event was `head`.

    `kind` is one of `first`, `requested`, `foreign`, `lost` and `damaged`. Unknown values are None: an earlier release
    recorded neither the kind nor the head.
    """

    log: Log
    at: datetime | None
    kind: str | None
    previous: LogId | None
    head: Seq | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A cluster time and a seq that belong together: the changes up to `time` are exactly the events up to `seq`.

    So the tracked collections, read at exactly `time`, are the state at position `seq`. `token` resumes the stream
    there, as long as `seq` is the newest event. `at` is the time of the checkpoint by MongoDB's clock.
    """

    seq: Seq
    token: Token
    time: Timestamp
    at: datetime
    repair: str | None = None
    """The reason of an unfinished repair, to which the events after this checkpoint belong, if there is one."""
    journal_delay: float | None = None
    """Seconds that changes waited for MongoDB's journal, while the worker flushes it for them; else None."""


class NoLogYet(Unavailable):
    """There is no event log before the first worker has run."""

    def __init__(self, *, retry_after: float = 1.0) -> None:
        super().__init__("there is no event log yet: is a worker running?", retry_after=retry_after)


class LogLost(Unavailable):
    """The log cannot be continued. A new log must begin."""


class Fenced(EventsyncError):
    """Another worker appended first, or has taken the log over. Read the log's head again before anything else."""

    code = "fenced"


class ResetAsked(LogLost):
    """A new log was requested, although this one can be continued."""


class LogStore:
    """Reads and, for the sequencer, writes logs and their checkpoints.

    With a `term`, what it writes of a log counts only as long as no later term has taken that log over. A deposed
    worker may not know yet what its successor has activated, and what it calls a checkpoint might then be none.
    """

    def __init__(self, database: AsyncDatabase[Any], term: str | None = None) -> None:
        self._logs: AsyncCollection[Any] = database["logs"]
        self._checkpoints: AsyncCollection[Any] = database["heads"]
        self._term = term

    async def ensure_indexes(self) -> None:
        """Create the index that makes a log's number unique in its stream."""
        with translated("the log's indexes can't be made"):
            await self._logs.create_indexes([IndexModel([("stream", 1), ("number", DESCENDING)], unique=True)])

    async def current(self) -> Log | None:
        """Return the stream's newest log, or None before the first worker has run."""
        # A row that was edited by hand must not stop every worker. A row without a valid number or id is no log. A row
        # without a cluster counts as one of another cluster, so that a new log begins.
        query = {"stream": STREAM, "number": {"$type": "number"}, "_id": {"$type": "string"}}
        with translated("the log can't be read"):
            row = await self._logs.find_one(query, sort=[("number", DESCENDING)])
        return None if row is None else _log(row)

    async def beginnings(self) -> Sequence[LogBeginning]:
        """Return the beginnings of the stream's logs, the newest first, and `_BEGINNINGS` at most."""
        query = {"stream": STREAM, "number": {"$type": "number"}, "_id": {"$type": "string"}}
        with translated("the logs can't be read"):
            rows = await self._logs.find(query, sort=[("number", DESCENDING)], limit=_BEGINNINGS + 1).to_list()
        return [_beginning(row, before) for row, before in zip(rows, [*rows[1:], None], strict=False)][:_BEGINNINGS]

    async def require(self) -> Log:
        """Return the stream's newest log. Raises `NoLogYet` before the first worker has run."""
        log = await self.current()
        if log is None:
            raise NoLogYet
        return log

    async def former(self, current: Log) -> list[LogId]:
        """Return the logs before `current`, newest first. Only the last ones are needed: older ones were removed
        before.

        A log of which only the checkpoint is left is included, because its record may have been deleted by hand.
        """
        query = {"stream": STREAM, "number": {"$lt": Int64(current.number)}}
        with translated("former logs can't be read"):
            rows = await self._logs.find(query, {"_id": 1}, sort=[("number", DESCENDING)], limit=_FORMER).to_list()
            older = {"number": {"$lt": Int64(current.number)}}
            checkpoints = await self._checkpoints.find(older, {"_id": 1}, limit=_FORMER).to_list()
        return [LogId(text) for text in dict.fromkeys(row["_id"] for row in (*rows, *checkpoints))]

    async def forget_checkpoint(self, former: LogId) -> None:
        """Remove the checkpoint of a former log."""
        with translated("the checkpoint of a former log can't be removed"):
            await self._checkpoints.delete_one({"_id": former})

    async def request_reset(self, reason: str, log: LogId | None = None, *, above: int = 0) -> Log | None:
        """Ask the sequencer to begin a new log. Return the current log, or None if there is none yet.

        With `log`, the request is made only if that log is the current one. The first reason stays. `above` is the
        number of a later log whose record is gone: that of the new log is greater.
        """
        current = await self.current()
        if current is not None and log in {None, current.id}:
            with translated("a new log can't be asked for"):
                request = {"reset": reason, "above": Int64(above)}
                # The first reason stays: it is the cause, and later ones are its consequences.
                await self._logs.update_one({"_id": current.id, "reset": None}, {"$set": request})
        return current

    async def begin(
        self,
        previous: Log | None,
        *,
        cluster: str,
        reason: str,
        token: Token,
        time: Timestamp,
        kind: str | None = None,
        head: Seq | None = None,
    ) -> Log:
        """Begin the log after `previous`, read from `token` on. Return the other log if another worker began one
        first.

        `kind` and `head`, the newest event of `previous`, are recorded for `beginnings`.
        """
        # First read the number, then the current log, then insert. The second read finds a log that another worker
        # began before the number was read. A log that begins later has the same number: the unique index rejects it.
        log = Log(new_log_id(), await self._next_number(previous), cluster, reason)
        other = await self.current()
        if other is not None and other.number > (previous.number if previous else 0):
            return other
        row = {"_id": log.id, "stream": STREAM, "number": Int64(log.number), "cluster": cluster, "reason": reason}
        row |= {"kind": kind, "previous": previous and previous.id, "head": None if head is None else Int64(head)}
        # The checkpoint comes first, because a log without one cannot be read from its beginning.
        await self.checkpoint(log.id, Seq(0), token, time)
        with translated("a new log can't be begun"):
            try:
                await self._logs.insert_one(row | {"at": datetime.now(UTC)})
            except DuplicateKeyError:
                await self._checkpoints.delete_one({"_id": log.id})
                return await self.current() or log
        for known in (log, previous) if previous is not None else (log,):
            # `former` finds a log whose record is gone by this number. Only a log that has begun has one.
            await self._number(known)
        return log

    async def take_over(self, log: LogId) -> None:
        """Let the term of this store be the only one that writes, and `log` the only log. Read what it depends on
        afterwards. Raises `Fenced` for a log that another one has followed.
        """
        with translated("the log can't be taken over"):
            # The leader of a former log may not know that, and would activate the collections of the new one there.
            others = {"_id": {"$ne": log}, "term": {"$exists": True}}
            await self._checkpoints.update_many(others, {"$unset": {"term": ""}})
            await self._checkpoints.update_one({"_id": log}, {"$set": {"term": self._term}})
        # Afterwards: a log is taken over once it has begun. That deposes those who have still read the former one here.
        current = await self.current()
        if current is not None and current.id != log and log in await self.former(current):
            raise Fenced(f"log {current.id} has begun after {log}")

    @asynccontextmanager
    async def leading(self, log: LogId) -> AsyncIterator[AsyncClientSession]:
        """A transaction that is committed only if the term of this store has not been deposed. Raises `Fenced`."""
        with translated("the log can't be led"):
            async with self._checkpoints.database.client.start_session() as session, await session.start_transaction():
                # A write, because two reads do not conflict.
                await self._lead(log, {"$inc": {"activations": 1}}, session)
                yield session

    async def _lead(self, log: LogId, change: Mapping[str, Any], session: AsyncClientSession | None = None) -> None:
        """Change the record of a checkpoint. Raises `Fenced` if another term has taken the log over."""
        if not (await self._checkpoints.update_one(self._led(log), change, session=session)).matched_count:
            raise _deposed(log)

    def _led(self, log: LogId) -> dict[str, Any]:
        return {"_id": log} if self._term is None else {"_id": log, "term": self._term}

    async def checkpoint(
        self, log: LogId, seq: Seq, token: Token, time: Timestamp, journal_delay: float | None = None
    ) -> None:
        """Record a checkpoint unless there is a later one. Checkpoints may arrive in any order: each is true by itself.

        A checkpoint with a later time but a lower seq is ignored. It comes from a deposed sequencer, which has missed
        the events of a collection that its successor tracks. Raises `Fenced` where it is known to be deposed.
        """
        new = {"seq": Int64(seq), "token": token, "time": time, "at": NOW, "journal_delay": journal_delay}
        with translated("the checkpoint can't be written"):
            # A pipeline makes the comparison and the write one step, and gives MongoDB's time as `$$NOW`.
            later = {"$or": [{"$gt": ["$time", time]}, {"$gt": ["$seq", Int64(seq)]}]}
            fields = {name: {"$cond": [later, f"${name}", _literal(value)]} for name, value in new.items()}
            try:
                await self._checkpoints.update_one(self._led(log), [{"$set": fields}], upsert=True)
            except DuplicateKeyError as error:
                raise _deposed(log) from error

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Provide a call that has MongoDB flush its journal. Raises `Unavailable`, as does the call."""
        doing = "the journal can't be flushed"
        async with pinned(self._checkpoints.database.client, translated(doing)) as connection:

            async def flush() -> None:
                with translated(doing):
                    await flush_journal(self._checkpoints, connection)

            yield flush

    async def journal_delay(self, log: LogId) -> float | None:
        """Return `journal_delay` of the newest checkpoint."""
        with translated("the checkpoint can't be read"):
            row = await self._checkpoints.find_one({"_id": log}, {"journal_delay": 1})
        return _seconds(row.get("journal_delay")) if row else None

    async def _number(self, log: Log) -> None:
        with translated("the checkpoint can't be written"):
            await self._checkpoints.update_one({"_id": log.id}, {"$set": {"number": Int64(log.number)}})

    async def _next_number(self, previous: Log | None) -> int:
        """Return a number that no log has had, even if the record of the newest log was deleted by hand.

        Stored positions of clients are compared by this number first. A repeated number would make old positions newer.
        """
        known = [previous.number if previous else 0]
        with translated("the logs can't be read"):
            for collection, field in ((self._checkpoints, "number"), (self._logs, "above")):
                query = {field: {"$type": ["int", "long"]}}
                newest = await collection.find_one(query, {field: 1}, sort=[(field, DESCENDING)])
                known.append(newest[field] if newest else 0)
        return 1 + max(known)

    async def read_checkpoint(self, log: LogId, session: AsyncClientSession | None = None) -> Checkpoint | None:
        """Return the newest checkpoint of a log, or None. It is no older than earlier reads in `session`."""
        with translated("the checkpoint can't be read"):
            row = await self._checkpoints.find_one({"_id": log}, session=session)
        if row is None:
            return None
        try:
            delay = _seconds(row.get("journal_delay"))
            checkpoint = Checkpoint(Seq(row["seq"]), row["token"], row["time"], row["at"], row.get("repair"), delay)
            if (type(checkpoint.token), type(checkpoint.time)) != (str, Timestamp):
                raise TypeError("its token or its time is no such thing")
        except UNREADABLE as error:
            raise Damaged(f"the checkpoint of log {log} can't be read: {error!r}") from error
        return checkpoint

    async def begin_repair(self, log: LogId, reason: str) -> None:
        """Record that a repair has begun. Until `end_repair`, a worker that takes over the log repairs it first.

        This always writes, even if the repair has begun before, so that the cluster time has advanced when it returns.
        Raises `Fenced`.
        """
        with translated("the repair of the log can't be recorded"):
            await self._lead(log, {"$set": {"repair": reason}, "$inc": {"repairs": 1}})

    async def end_repair(self, log: LogId) -> None:
        """Record that the repair is complete. Raises `Fenced`: that of a successor may not be."""
        with translated("the end of the log's repair can't be recorded"):
            await self._lead(log, {"$unset": {"repair": ""}})


def _log(row: Mapping[str, Any]) -> Log:
    cluster, reason, reset = (row.get(name) for name in ("cluster", "reason", "reset"))
    return Log(LogId(row["_id"]), int(row["number"]), str(cluster), str(reason), None if reset is None else str(reset))


def _beginning(row: Mapping[str, Any], before: Mapping[str, Any] | None) -> LogBeginning:
    """Read the record of a log, which may have been edited by hand. `before` is that of the log before it."""
    at, kind, head = row.get("at"), row.get("kind"), row.get("head")
    previous = row.get("previous") or (before["_id"] if before is not None else None)
    return LogBeginning(
        _log(row),
        at if isinstance(at, datetime) else None,
        kind if isinstance(kind, str) else None,
        LogId(previous) if isinstance(previous, str) else None,
        Seq(head) if isinstance(head, int) else None,
    )


def _deposed(log: LogId) -> Fenced:
    return Fenced(f"another worker has taken over log {log}")


def _seconds(stored: Any) -> float | None:
    return stored if isinstance(stored, float) else None


def _literal(value: Any) -> Any:
    return value if value == NOW else {"$literal": value}


async def cluster_identity(database: AsyncDatabase[Any]) -> str:
    """Return the identity of this MongoDB deployment: the replica set's id, or its name.

    MongoDB silently accepts a resume token of another deployment, so the log records the deployment of its tokens.
    """
    admin = database.client["admin"]
    with translated("the replica set's identity can't be read"):
        hello = await admin.command("hello")
        if "setName" not in hello:
            return "sharded" if hello.get("msg") == "isdbgrid" else "standalone"
        config = await database.client["local"]["system.replset"].find_one({}, {"settings.replicaSetId": 1})
    return str(config["settings"]["replicaSetId"]) if config else str(hello["setName"])
