"""Which log a stream is numbered by, and how far it has been read: the `logs` and `checkpoints` collections.

A log is one incarnation of the numbering. A new one begins only when the old can't be continued; clients then get a
reset and a snapshot.
"""

from __future__ import annotations

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
from eventsync.errors import Unavailable
from eventsync.mongodb.change_stream import Token
from eventsync.mongodb.clocks import NOW
from eventsync.mongodb.errors import translated
from eventsync.stores.log.stored_event import UNREADABLE

_FORMER = 10

STREAM = "main"
"""The one stream that holds all tracked collections."""


@dataclass(frozen=True, slots=True)
class Log:
    """One incarnation: the `number`-th of its stream, kept by the MongoDB deployment `cluster`."""

    id: LogId
    number: int
    cluster: str
    reason: str
    reset: str | None = None
    """Why somebody has asked for a new log to follow this one, if somebody has."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A fact about the log: every change up to cluster time `time` is in the events up to `seq`, and none after.

    So the tracked collections, read at exactly `time`, are the state at position `seq`. `token` resumes the stream
    there, if `seq` is still the newest event. `at` is when this was known, by the server's clock.
    """

    seq: Seq
    token: Token
    time: Timestamp
    at: datetime
    repair: str | None = None
    """Why the events after this checkpoint are a repair that is not finished, if they are."""


class NoLogYet(Unavailable):
    """There is no event log before the first worker has run."""

    def __init__(self, *, retry_after: float = 1.0) -> None:
        super().__init__("there is no event log yet: is a worker running?", retry_after=retry_after)


class LogLost(Unavailable):
    """The log can't be continued: another one has to begin."""


class ResetAsked(LogLost):
    """The log can be continued. Somebody has asked for a new one."""


class LogStore:
    """Reads and, for the sequencer, writes logs and their checkpoints."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._logs: AsyncCollection[Any] = database["logs"]
        self._checkpoints: AsyncCollection[Any] = database["heads"]

    async def ensure_indexes(self) -> None:
        """The index that lets only one log be a stream's n-th."""
        with translated("the log's indexes can't be made"):
            await self._logs.create_indexes([IndexModel([("stream", 1), ("number", DESCENDING)], unique=True)])

    async def current(self) -> Log | None:
        """The stream's newest log, or None before the first worker has run."""
        # A row that no worker wrote, or that somebody changed, must not end every worker: one without a number or an id
        # is no log, and one that names no cluster is of another cluster, after which a new log begins.
        query = {"stream": STREAM, "number": {"$type": "number"}, "_id": {"$type": "string"}}
        with translated("the log can't be read"):
            row = await self._logs.find_one(query, sort=[("number", DESCENDING)])
        if row is None:
            return None
        cluster, reason, reset = (row.get(name) for name in ("cluster", "reason", "reset"))
        return Log(
            LogId(row["_id"]), int(row["number"]), str(cluster), str(reason), None if reset is None else str(reset)
        )

    async def require(self) -> Log:
        """Return the stream's newest log. Raises `NoLogYet` before the first worker has run."""
        log = await self.current()
        if log is None:
            raise NoLogYet
        return log

    async def former(self, current: Log) -> list[LogId]:
        """The logs before `current`, the newest of them first; what is left of older ones was removed long ago.

        Logs of which only a checkpoint is left count, too: somebody may have deleted their record.
        """
        query = {"stream": STREAM, "number": {"$lt": Int64(current.number)}}
        with translated("former logs can't be read"):
            rows = await self._logs.find(query, {"_id": 1}, sort=[("number", DESCENDING)], limit=_FORMER).to_list()
            older = {"number": {"$lt": Int64(current.number)}}
            checkpoints = await self._checkpoints.find(older, {"_id": 1}, limit=_FORMER).to_list()
        return [LogId(text) for text in dict.fromkeys(row["_id"] for row in (*rows, *checkpoints))]

    async def forget_checkpoint(self, former: LogId) -> None:
        """Forget where a former log stood."""
        with translated("the checkpoint of a former log can't be removed"):
            await self._checkpoints.delete_one({"_id": former})

    async def request_reset(self, reason: str, log: LogId | None = None) -> Log | None:
        """Ask the sequencer to begin a new log. Returns the one that it ends, None where there is none yet.

        With `log`, only where that one is in force. The reason that was given first stays.
        """
        current = await self.current()
        if current is not None and log in {None, current.id}:
            with translated("a new log can't be asked for"):
                await self._logs.update_one({"_id": current.id, "reset": None}, {"$set": {"reset": reason}})
        return current

    async def begin(self, previous: Log | None, *, cluster: str, reason: str, token: Token, time: Timestamp) -> Log:
        """Begin the log that follows `previous`, read from `token` on. If another worker did it first, that one."""
        # Number, look, insert, in this order: a log that another worker begins before the number is read is seen by the
        # look, and one that it begins later has this very number, which the index gives out once.
        log = Log(new_log_id(), await self._next_number(previous), cluster, reason)
        other = await self.current()
        if other is not None and other.number > (previous.number if previous else 0):
            return other
        row = {"_id": log.id, "stream": STREAM, "number": Int64(log.number), "cluster": cluster, "reason": reason}
        # The checkpoint first: a log without one could not be read from its beginning.
        await self.checkpoint(log.id, Seq(0), token, time)
        with translated("a new log can't be begun"):
            try:
                await self._logs.insert_one(row | {"at": datetime.now(UTC)})
            except DuplicateKeyError:
                await self._checkpoints.delete_one({"_id": log.id})
                return await self.current() or log
        for known in (log, previous) if previous is not None else (log,):
            # Where its record is gone, this is what `former` finds it by. Only a log that has begun has a number.
            await self._number(known)
        return log

    async def checkpoint(self, log: LogId, seq: Seq, token: Token, time: Timestamp) -> None:
        """Record a checkpoint, unless a later one is there. Any order of arrival is safe: each is a fact for itself.

        One with a lower seq at a later time is not: a sequencer that was deposed without noticing has missed a
        collection that its successor tracks.
        """
        new = {"seq": Int64(seq), "token": token, "time": time, "at": NOW}
        with translated("the checkpoint can't be written"):
            # A pipeline, so that the comparison and the write are one step and `$$NOW` is the server's clock.
            later = {"$or": [{"$gt": ["$time", time]}, {"$gt": ["$seq", Int64(seq)]}]}
            fields = {name: {"$cond": [later, f"${name}", _literal(value)]} for name, value in new.items()}
            await self._checkpoints.update_one({"_id": log}, [{"$set": fields}], upsert=True)

    async def _number(self, log: Log) -> None:
        with translated("the checkpoint can't be written"):
            await self._checkpoints.update_one({"_id": log.id}, {"$set": {"number": Int64(log.number)}})

    async def _next_number(self, previous: Log | None) -> int:
        """One that no log has had, also where the record of the newest one was deleted by somebody.

        Clients' stored positions are compared by it first: given out twice, it would make old ones the newer.
        """
        with translated("the logs can't be read"):
            newest = await self._checkpoints.find_one({}, {"number": 1}, sort=[("number", DESCENDING)])
        known = newest.get("number", 0) if newest else 0
        return 1 + max(previous.number if previous else 0, known if isinstance(known, int) else 0)

    async def read_checkpoint(self, log: LogId, session: AsyncClientSession | None = None) -> Checkpoint | None:
        """The newest checkpoint of a log. No older than what was read in `session` before."""
        with translated("the checkpoint can't be read"):
            row = await self._checkpoints.find_one({"_id": log}, session=session)
        if row is None:
            return None
        try:
            found = Checkpoint(Seq(row["seq"]), row["token"], row["time"], row["at"], row.get("repair"))
            if (type(found.token), type(found.time)) != (str, Timestamp):
                raise TypeError("its token or its time is no such thing")
        except UNREADABLE as error:
            raise Damaged(f"the checkpoint of log {log} can't be read: {error!r}") from error
        return found

    async def begin_repair(self, log: LogId, reason: str) -> None:
        """From here until `end_repair`, the log's tail says nothing about where to read on: whoever takes the log up
        repairs it first.

        Always a write, also where the repair was begun before, so that the cluster time has moved on when it returns.
        """
        with translated("the repair of the log can't be recorded"):
            await self._checkpoints.update_one({"_id": log}, {"$set": {"repair": reason}, "$inc": {"repairs": 1}})

    async def end_repair(self, log: LogId) -> None:
        with translated("the end of the log's repair can't be recorded"):
            await self._checkpoints.update_one({"_id": log}, {"$unset": {"repair": ""}})


def _literal(value: Any) -> Any:
    return value if value == NOW else {"$literal": value}


async def cluster_identity(database: AsyncDatabase[Any]) -> str:
    """What tells this MongoDB deployment from every other: the replica set's own id, else its name.

    A resume token of another deployment is accepted by MongoDB in silence, so the log remembers whose it is.
    """
    admin = database.client["admin"]
    with translated("the replica set's identity can't be read"):
        hello = await admin.command("hello")
        if "setName" not in hello:
            return "sharded" if hello.get("msg") == "isdbgrid" else "standalone"
        found = await database.client["local"]["system.replset"].find_one({}, {"settings.replicaSetId": 1})
    return str(found["settings"]["replicaSetId"]) if found else str(hello["setName"])
