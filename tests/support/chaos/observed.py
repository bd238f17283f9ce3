"""Reads the evidence from MongoDB. The only part of the instruments that knows how logs and the oplog are stored."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
from bson.timestamp import Timestamp

from app.domain.ids import format_id
from app.domain.stamp import unstamp
from app.domain.values import CODEC, to_tree
from app.stores.mongodb import Client
from support.chaos.evidence import Commit, Evidence, Kind, LogRow, Mark, Source
from support.chaos.history import History, Key

_KINDS: dict[str, Kind] = {"i": "create", "u": "change", "d": "delete"}


async def gather(
    client: Client,
    history: History,
    *,
    database: str,
    log_database: str,
    collections: Iterable[str],
    oplog: bool = True,
) -> Evidence:
    """Everything as it is now. Call it when nothing is written any more."""
    names = tuple(collections)
    rows = await read_rows(client, log_database)
    source = await read_source(client, database, names)
    commits = await read_commits(client, database, names) if oplog else None
    return Evidence(history, rows, source, commits)


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
        body=orjson.loads(body if isinstance(body, str) else zlib.decompress(body)),
        group=Mark(group["id"], group["n"], group["of"]) if group else None,
    )


async def read_source(client: Client, database: str, names: Iterable[str]) -> Source:
    """The collections as clients know them."""
    source = {}
    for name in names:
        async for row in client[database].get_collection(name, codec_options=CODEC).find():
            stamp, document = unstamp(row)
            source[name, str(format_id(document["_id"]))] = stamp.version, orjson.loads(orjson.dumps(to_tree(document)))
    return source


async def read_commits(client: Client, database: str, names: Iterable[str]) -> tuple[Commit, ...]:
    """Every change of these collections that the oplog knows, in commit order.

    Source: https://github.com/mongodb/mongo/blob/r6.0.5/src/mongo/db/repl/oplog_entry.idl
    """
    spaces = {f"{database}.{name}" for name in names}
    query = {"$or": [{"ns": {"$in": list(spaces)}, "op": {"$in": list(_KINDS)}}, {"o.applyOps": {"$exists": True}}]}
    chains: dict[Timestamp, list[dict[str, Any]]] = {}
    commits: list[Commit] = []
    async for entry in client["local"]["oplog.rs"].find(query, sort=[("$natural", 1)]):
        if "applyOps" not in entry["o"]:
            commits.extend(_commits([entry], entry["ts"], spaces, None))
            continue
        earlier = chains.pop(entry["prevOpTime"]["ts"], []) if "prevOpTime" in entry else []
        operations = [*earlier, *entry["o"]["applyOps"]]
        if entry["o"].get("partialTxn"):
            chains[entry["ts"]] = operations
            continue
        name = f"{entry['lsid']['id'].hex}:{entry['txnNumber']}" if "txnNumber" in entry else None
        commits.extend(_commits(operations, entry["ts"], spaces, name))
    return tuple(commits)


def _commits(
    operations: Iterable[Mapping[str, Any]], time: Timestamp, spaces: set[str], transaction: str | None
) -> Iterator[Commit]:
    for operation in operations:
        if operation["ns"] in spaces and not _only_stamped(operation):
            yield Commit(time, _key(operation), _KINDS[operation["op"]], _mark(operation), transaction)


def _key(operation: Mapping[str, Any]) -> Key:
    identified = operation["o2"] if operation["op"] == "u" else operation["o"]
    return operation["ns"].partition(".")[2], format_id(identified["_id"])


def _only_stamped(operation: Mapping[str, Any]) -> bool:
    """Whether it is the mark that an API delete leaves on the document in front of the delete: no change by itself."""
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


def _mark(operation: Mapping[str, Any]) -> str | None:
    if operation["op"] == "d":
        return None
    content = operation["o"]
    if "diff" in content:
        content = content["diff"].get("u", {}) | content["diff"].get("i", {})
    found: str | None = content.get("mark")
    return found
