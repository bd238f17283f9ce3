"""Reads the evidence from MongoDB. The only part of the instruments that knows how logs and the oplog are stored."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
from bson import json_util
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from eventsync.domain.event_key import key_range
from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import format_id
from eventsync.domain.positions import Seq
from eventsync.domain.segments.format import Selection
from eventsync.domain.stamp import unstamp
from eventsync.domain.values.extended_json import RAW_CODEC, decode
from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.history.route_verification import RouteVerification
from eventsync.stores.history.verification import VerifiedPoint
from eventsync.stores.stores import Stores
from support.chaos.evidence import UNDECIDED, Commit, Evidence, LogRow, Part, Source
from support.chaos.history import History, shortened
from support.chaos.log_checks import UNFIT, State, step
from support.chaos.oplog import Oplog, feed
from support.chaos.rules import Bound
from support.replica import to_tree
from support.waiting import eventually, patience

_OF_A_CHANGE = 40
"""Characters that the resume token of a change has at least: it holds the `_id` and the collection; a mark does not."""


async def gather(
    client: Client,
    settings: Settings,
    history: History,
    names: Collection[str],
    asked: Iterable[Bound] = (),
    tail: LogTail | None = None,
    **known: Any,
) -> Evidence:
    """Read the evidence as it is now, when nothing is written any more. `known`: fields that are not to be read.

    `asked`: the parts of collections that clients have followed. `tail`: what has read the log along, if some of it is
    archived.
    """
    if "commits" not in known:
        known["commits"] = await read_commits(client, settings.database, names)
    rows, archived = await read_rows(client, settings.log_db), tuple[LogRow, ...]()
    if tail is not None:
        # After the rows: the archiver removes some of them meanwhile.
        archived, wrong = await tail.archived()
        rows, known = joined(archived, rows), known | {"unverified": (*known.get("unverified", ()), *wrong)}
    source = await read_source(client, settings.database, names)
    repairs = sum([row.get("repairs", 0) async for row in client[settings.log_db]["heads"].find()])
    parts = await read_parts(client, settings.database, rows, source, asked)
    return Evidence(history, rows, source, repairs=repairs, parts=parts, archived=len(archived), **known)


async def read_rows(client: Client, log_database: str) -> tuple[LogRow, ...]:
    """The events of all logs, the oldest log first."""
    database = client[log_database]
    ages = {row["_id"]: row["number"] async for row in database["logs"].find()}
    rows = [_row(row) async for row in database["events"].find(sort=[("_id", 1)])]
    return tuple(sorted(rows, key=lambda row: ages.get(row.log, 0)))


def _row(row: Mapping[str, Any]) -> LogRow:
    body, group = row["b"], row.get("g")
    return LogRow(
        log=row["_id"]["l"],
        seq=int(row["_id"]["n"]),
        key=(row["c"], row["i"]),
        token=row["t"],
        time=row["s"],
        body=shortened(orjson.loads(body if isinstance(body, str) else zlib.decompress(body))),
        group=TransactionPart(group["id"], group["n"], group["of"]) if group else None,
        found=len(row["t"]) < _OF_A_CHANGE,
    )


def joined(archived: Iterable[LogRow], stored: Sequence[LogRow]) -> tuple[LogRow, ...]:
    """The events of the archive, which are of the newest log, and those in MongoDB. Some may be in both."""
    known = {(row.log, row.seq) for row in stored}
    new = [row for row in archived if (row.log, row.seq) not in known]
    first = next((n for n, row in enumerate(stored) if new and row.log == new[0].log), len(stored))
    return (*stored[:first], *new, *stored[first:])


class LogTail:
    """Reads the log along during a run: an event in the archive has no resume token any more."""

    def __init__(self, client: Client, stores: Stores) -> None:
        self._events: AsyncCollection[Any] = client[stores.log.name].get_collection(
            "events", read_concern=ReadConcern("majority")
        )
        self._stores = stores
        self._seen: dict[tuple[str, int], LogRow] = {}
        self._last: dict[str, int] = {}
        self._over = False

    def leave(self) -> None:
        """Read no more."""
        self._over = True

    async def run(self) -> None:
        """Read until it is to leave."""
        while not self._over:
            with suppress(PyMongoError, Unavailable):
                await self.read()
            await asyncio.sleep(0.3)

    async def read(self) -> None:
        """Read what is new. Raises `PyMongoError` and `Unavailable`."""
        log = await self._stores.logs.current()
        if log is None:
            return
        after = {"_id": key_range(log.id, self._last.get(log.id, 0))}
        async for row in self._events.find(after, sort=[("_id", 1)]):
            self._seen[log.id, row["_id"]["n"]] = _row(row)
            self._last[log.id] = row["_id"]["n"]

    async def archived(self) -> tuple[tuple[LogRow, ...], tuple[str, ...]]:
        """Return the events in the archive, and what is wrong with them: each must be what it was in MongoDB.

        Raises `Unavailable`.
        """
        log = await self._stores.logs.current()
        if log is None:
            return (), ()
        up_to = (await self._stores.tiers.read(log.id)).archived_up_to
        found: list[LogRow] = []
        wrong: list[str] = []
        async for event in self._stores.archive.reader.read(log.id, Seq(0), up_to, Selection()):
            row = LogRow(
                log=log.id,
                seq=event.seq,
                key=(event.collection, event.id),
                token=f"of event {event.seq}",
                time=event.time,
                body=shortened(orjson.loads(event.body)),
                group=event.transaction,
            )
            if (seen := self._seen.get((log.id, event.seq))) is not None:
                row = replace(row, token=seen.token, found=seen.found)
                if row != seen:
                    wrong.append(f"the archive has {row}, and MongoDB had {seen}")
            found.append(row)
        if [row.seq for row in found] != list(range(1, up_to + 1)):
            wrong.append(f"the archive has {len(found)} events up to {up_to}")
        return tuple(found), tuple(wrong)


async def read_source(client: Client, database: str, names: Iterable[str]) -> Source:
    """The collections as clients know them."""
    source = {}
    for name in names:
        # As the product reads them: a poison document fails the driver's own decoding.
        collection: AsyncCollection[Any] = client[database].get_collection(name, codec_options=RAW_CODEC)
        async for raw in collection.find():
            stamp, document = unstamp(decode(raw.raw))
            said = shortened(orjson.loads(orjson.dumps(to_tree(document))))
            source[name, str(format_id(document["_id"]))] = stamp.version, said
    return source


async def read_commits(client: Client, database: str, names: Iterable[str]) -> tuple[Commit, ...]:
    """Every change of these collections that the oplog knows, in commit order."""
    oplog = Oplog(database, names)
    await feed(oplog, client)
    return tuple(oplog.commits)


async def read_parts(
    client: Client, database: str, rows: Iterable[LogRow], source: Source, asked: Iterable[Bound]
) -> dict[str, Part]:
    """Have MongoDB itself find the documents of each part among all states that documents ever had; return by scope."""
    states: dict[str, dict[bytes, None]] = defaultdict(dict)
    for key, (_, document) in source.items():
        if key != UNDECIDED:
            states[key[0]][orjson.dumps(document)] = None
    state: State = {}
    for row in rows:
        with suppress(*UNFIT):
            step(state, row.key, row.body)
        if (found := state.get(row.key)) is not None and row.key != UNDECIDED:
            states[row.key[0]][orjson.dumps(found[1])] = None
    parts: dict[str, Part] = {}
    for bound in asked:
        texts = list(states[bound.collection])
        scratch = client[f"{database}-states"][bound.collection]
        if texts and await scratch.find_one() is None:
            await scratch.insert_many([{**json_util.loads(text), "_id": n} for n, text in enumerate(texts)])
        matching = scratch.find(bound.filter, {"_id": 1}, collation={"locale": "simple"})
        documents = frozenset([texts[row["_id"]] async for row in matching])
        assert bound.scope not in parts, f"{bound.shape} has the scope of another"
        parts[bound.scope] = Part(bound.shape, bound.collection, bound.scope, documents, bound.last)
    return parts


async def last_event(
    client: Client, log_database: str, name: str, text: str, *, log: str | None = None
) -> LogRow | None:
    """The newest event of one document, where there is one log only, or in this one."""
    query = {"c": name, "i": text} | ({"_id.l": log} if log else {})
    row = await client[log_database]["events"].find_one(query, sort=[("_id", -1)])
    return _row(row) if row else None


async def based(client: Client, log_database: str, names: Collection[str], *, seconds: float = 30.0) -> None:
    """Wait until each collection has a stored snapshot: before that, lost history ends the log, as is documented.

    Raises `TimeoutError`.
    """

    async def stored() -> bool:
        return len(await client[log_database]["snapshots"].distinct("c", {"complete": True})) >= len(names)

    await eventually(stored, seconds)


async def verified(stores: Stores, *, seconds: float = 20.0) -> tuple[str, ...]:
    """Compare the log with the collections, and prove its routes, by the product's own means, at the checkpoint."""
    log = await stores.logs.current()
    checkpoint = await stores.logs.read_checkpoint(log.id) if log else None
    if log is None or checkpoint is None:
        return ("there is no log",)
    deadline = time.monotonic() + patience(seconds)
    found: list[str] = []
    routes = RouteVerification(stores.history.state, stores.snapshots.live, stores.definitions, stores.tracking)
    names = [item.name for item in await stores.tracking.read() if item.log == log.id]
    while names:
        compared = stores.history.comparison.differences(log.id, names[0], checkpoint.seq, checkpoint.time)
        try:
            differences = [str(shortened(str(difference))) async for difference in compared]
            point = VerifiedPoint(log.id, checkpoint.seq, checkpoint.time, checkpoint.seq, settled=True)
            wrong = await routes.check(point, names[0], lambda _: None)
            found += [*differences, *([wrong] if wrong else [])]
        except Unavailable as error:
            # The snapshot to begin with may be on its way, and the time of the checkpoint too long ago.
            if time.monotonic() < deadline:
                await asyncio.sleep(0.2)
                checkpoint = await stores.logs.read_checkpoint(log.id) or checkpoint
                continue
            found.append(f"{names[0]}: {error.message}")
        del names[0]
    return tuple(found)
