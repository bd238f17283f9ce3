"""MongoDB's oplog, read as commits: the ground truth that the log is judged by."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from bson.timestamp import Timestamp
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from eventsync.domain.ids import format_id
from eventsync.domain.values.extended_json import RAW_CODEC, decode
from eventsync.mongodb.client import Client
from support.chaos.evidence import Commit, Kind
from support.waiting import eventually

_KINDS: dict[str, Kind] = {"i": "create", "u": "change", "d": "delete"}
_BEGINNING = Timestamp(0, 0)
_POSITION_LOST = 136
"""CappedPositionLost: the entry that is read has been removed under the reader."""

_ATTEMPTS = 20
Entry = Mapping[str, Any]


class Oplog:
    """The commits of some collections, from oplog entries that are fed in order.

    It knows what each collection of the database holds: a drop is the deletion of all of it, a renaming brings all of
    it elsewhere, and the oplog says so in one entry.

    Source: https://github.com/mongodb/mongo/blob/r6.0.5/src/mongo/db/repl/oplog_entry.idl
    """

    def __init__(self, database: str, names: Iterable[str]) -> None:
        self.commits: list[Commit] = []
        self.last = _BEGINNING
        """The time of the last entry that was fed."""
        self._database = database
        self._names = frozenset(names)
        self._held: dict[str, dict[str, str | None]] = {}
        self._parts: dict[Timestamp, list[Entry]] = {}

    def forget(self) -> None:
        """The lost part has nothing of these collections: continue where the oplog now begins."""
        self.last = _BEGINNING

    @property
    def query(self) -> dict[str, Any]:
        """Filter for the entries to feed next."""
        ours = {"ns": {"$regex": f"^{self._database}\\."}}
        return {"ts": {"$gt": self.last}, "$or": [ours, {"o.applyOps": {"$exists": True}}]}

    def feed(self, entry: Entry) -> None:
        """Take the next entry."""
        self.last = entry["ts"]
        content = entry["o"]
        if "applyOps" in content:
            self._apply(entry)
        elif entry["op"] == "c":
            self._command(content, entry["ts"])
        else:
            self._changes([entry], entry["ts"], None)

    def _apply(self, entry: Entry) -> None:
        """A transaction, which may be in several entries: the last one commits them all."""
        earlier = self._parts.pop(entry["prevOpTime"]["ts"], []) if "prevOpTime" in entry else []
        operations = [*earlier, *entry["o"]["applyOps"]]
        if entry["o"].get("partialTxn"):
            self._parts[entry["ts"]] = operations
            return
        self._changes(operations, entry["ts"], transaction_of(entry))

    def _changes(self, operations: Iterable[Entry], at: Timestamp, transaction: str | None) -> None:
        for operation in operations:
            database, _, name = operation["ns"].partition(".")
            if database != self._database or operation["op"] not in _KINDS or _only_stamped(operation):
                continue
            commit = Commit(at, (name, _id(operation)), _KINDS[operation["op"]], _mark(operation), transaction)
            self._take(commit)

    def _command(self, content: Entry, at: Timestamp) -> None:
        if dropped := content.get("drop"):
            self._empty(dropped, at)
        elif renamed := content.get("renameCollection"):
            self._rename(renamed.partition(".")[2], content["to"].partition(".")[2], at)

    def _empty(self, name: str, at: Timestamp, kept: Iterable[str] = ()) -> None:
        for text in sorted(self._held.get(name, {}).keys() - set(kept)):
            self._take(Commit(at, (name, text), "delete", None, whole=True))

    def _rename(self, name: str, to: str, at: Timestamp) -> None:
        documents = dict(self._held.get(name, {}))
        self._empty(name, at)
        self._empty(to, at, kept=documents)
        for text, mark in documents.items():
            kind: Kind = "change" if text in self._held.get(to, {}) else "create"
            self._take(Commit(at, (to, text), kind, mark, whole=True))

    def _take(self, commit: Commit) -> None:
        name, text = commit.key
        held = self._held.setdefault(name, {})
        if commit.kind == "delete":
            held.pop(text, None)
        else:
            held[text] = commit.mark if commit.mark is not None else held.get(text)
        if name in self._names:
            self.commits.append(commit)


class OplogTail:
    """Reads along during a run, from whichever member answers: large documents soon push an oplog's end out.

    Only what a majority has: all else may be rolled back.
    """

    def __init__(self, clients: Sequence[Client], oplog: Oplog) -> None:
        self._clients = clients
        self._oplog = oplog
        self._over = False

    def leave(self) -> None:
        """Read no more by itself."""
        self._over = True

    async def run(self) -> None:
        """Read until it is to leave."""
        while not self._over:
            await self._read()
            await asyncio.sleep(0.5)

    async def commits(self, client: Client, *, seconds: float = 30.0) -> tuple[Commit, ...]:
        """Return all that is committed by now, as `client` sees it. Raises `TimeoutError`."""
        now = (await client.admin.command("ping"))["operationTime"]
        await eventually(lambda: self._read(up_to=now), seconds)
        return tuple(self._oplog.commits)

    async def _read(self, *, up_to: Timestamp = _BEGINNING) -> bool:
        """Read what is new from the first member that answers; return True if that was all up to `up_to`."""
        for client in self._clients:
            with suppress(PyMongoError):
                return await feed(self._oplog, client, up_to=up_to)
        return False


async def feed(oplog: Oplog, client: Client, *, up_to: Timestamp = _BEGINNING) -> bool:
    """Feed what the member has that is new; return True if it has all up to `up_to`.

    Raises `LookupError` where the member's oplog no longer reaches back to what was fed before.
    """
    # Raw, because entries may hold what the driver can't decode.
    entries: Any = client["local"].get_collection("oplog.rs", RAW_CODEC, read_concern=ReadConcern("majority"))
    for _ in range(_ATTEMPTS):
        first = await first_time(client)
        if first is None:
            continue
        if oplog.last != _BEGINNING and first > oplog.last:
            raise LookupError(f"the oplog begins at {first}, it was read up to {oplog.last}")
        newest = await entries.find_one({}, {"ts": 1}, sort=[("$natural", -1)])
        with _unless_removed():
            async for entry in entries.find(oplog.query, sort=[("$natural", 1)]):
                oplog.feed(decode(entry.raw))
            return newest is not None and newest["ts"] >= up_to
    raise LookupError("the oplog's beginning goes faster than it can be read")


async def first_time(client: Client) -> Timestamp | None:
    """Return the time at which the member's oplog begins; None while that is moving."""
    with _unless_removed():
        first = await client["local"]["oplog.rs"].find_one({}, {"ts": 1}, sort=[("$natural", 1)])
        return first["ts"] if first else None
    return None


@contextmanager
def _unless_removed() -> Iterator[None]:
    """Leave the block where the entry that is read is removed under the reader."""
    try:
        yield
    except OperationFailure as error:
        if error.code != _POSITION_LOST:
            raise


def transaction_of(entry: Entry) -> str | None:
    """`session:number`, as the log has it. Raises `TypeError` where the client does not decode UUIDs."""
    if (number := entry.get("txnNumber")) is None:
        return None
    session = entry["lsid"]["id"]
    if not isinstance(session, UUID):
        raise TypeError("sessions can't be told apart: the client needs uuidRepresentation")
    return f"{session.hex}:{number}"


def _id(operation: Entry) -> str:
    identified = operation["o2"] if operation["op"] == "u" else operation["o"]
    return format_id(identified["_id"])


def _only_stamped(operation: Entry) -> bool:
    """Return True if it is the mark that an API delete leaves on a document before the delete: no change by itself."""
    if operation["op"] != "u" or "diff" not in operation["o"]:
        return False
    return {name for _, name in _touched(operation["o"]["diff"])} <= {"_sync"}


def _touched(diff: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(section, field) of the top level of a `$v: 2` oplog diff: d, u, i (fields), `s<name>` (within)."""
    for section, value in diff.items():
        if section.startswith("s") and len(section) > 1:
            yield "s", section[1:]
        else:
            yield from ((section, name) for name in value)


def _mark(operation: Entry) -> str | None:
    if operation["op"] == "d":
        return None
    content = operation["o"]
    if "diff" in content:
        content = dict(content["diff"].get("u", {})) | dict(content["diff"].get("i", {}))
    found: str | None = content.get("mark")
    return found
