"""The truth of a run: all states of documents, by the oplog, and what MongoDB finds among them for each principal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bson.timestamp import Timestamp
from pymongo import AsyncMongoClient

from eventsync.domain.ids import format_id
from eventsync.domain.stamp import FIELD
from support.chaos.history import Key
from support.chaos.leaks.evidence import CANARY, DocumentState, Sight
from support.chaos.leaks.scene import (
    COLLECTIONS,
    SIGHTS,
    VARIANTS,
    closed,
    fixed,
    hidden,
    is_unlimited,
    readable,
    writable,
)
from support.replica import to_tree

Row = Mapping[str, Any]
Client = AsyncMongoClient[dict[str, Any]]
_SIMPLE = {"locale": "simple"}
_LONG = 100
"""Characters of a text that are kept where MongoDB finds what a principal may see. A canary has 26."""


async def read_states(client: Client, database: str, since: Timestamp) -> list[DocumentState]:
    """Return each state of each document, in the order of the commits. There was none before the cluster time `since`.

    The oplog has what many tests have written: MongoDB finds the place of a time in it, and reads what is behind it.
    """
    ours = {
        "ts": {"$gte": since},
        "$or": [{"ns": {"$regex": f"^{database}\\."}}, {"o.applyOps": {"$exists": True}}],
    }
    found: list[DocumentState] = []
    present: dict[Key, Row] = {}
    async for entry in client["local"]["oplog.rs"].find(ours, sort=[("$natural", 1)]):
        at, time = entry["wall"].timestamp(), cluster_time(entry["ts"])
        for operation in _operations(entry):
            space, _, collection = operation["ns"].partition(".")
            if space != database or collection not in COLLECTIONS or operation["op"] not in "iud":
                continue
            key = collection, str(format_id((operation["o2"] if operation["op"] == "u" else operation["o"])["_id"]))
            document = _after(operation, present.get(key))
            before = present.get(key)
            if document is None:
                present.pop(key, None)
            else:
                present[key] = document
            # An API delete first leaves its mark, which changes nothing else.
            if (shown := _unstamped(document)) != _unstamped(before):
                version, by = _made_by(document, before)
                found.append(DocumentState(len(found), key, at, shown, time, version, by))
    return found


def cluster_time(timestamp: Timestamp) -> int:
    """Return a cluster time as a number."""
    return int(timestamp.time) << 32 | int(timestamp.inc)


def _made_by(document: Row | None, before: Row | None) -> tuple[int, str | None]:
    """Return version and author of the API write that has made a state; 0 and None if none has."""
    mark, old = (row or {} for row in (document, before))
    if document is None:
        stamp = old.get(FIELD, {})
        return (stamp["v"], stamp["by"]) if stamp.get("deleted") else (0, None)
    stamp = mark.get(FIELD, {})
    return (stamp["v"], stamp["by"]) if stamp and stamp != old.get(FIELD) else (0, None)


def _unstamped(document: Row | None) -> Row | None:
    return None if document is None else {name: value for name, value in document.items() if name != FIELD}


def _operations(entry: Row) -> Iterator[Row]:
    if "applyOps" not in entry["o"]:
        yield entry
        return
    assert "partialTxn" not in entry["o"], "transactions of a run are small"
    yield from entry["o"]["applyOps"]


def _after(operation: Row, before: Row | None) -> Row | None:
    if operation["op"] == "d":
        return None
    content = operation["o"]
    if operation["op"] == "i" or "diff" not in content:
        return {name: value for name, value in content.items() if name != "$v"}
    assert before is not None, operation
    return _changed(before, content["diff"])


def _changed(before: Row, diff: Row) -> dict[str, Any]:
    """Apply an oplog diff of version 2: d, u, i (fields), `s<name>` (within).

    Source: https://github.com/mongodb/mongo/blob/r6.0.5/src/mongo/db/update/document_diff_serialization.h
    """
    after = {name: value for name, value in before.items() if name not in diff.get("d", {})}
    after |= {**diff.get("u", {}), **diff.get("i", {})}
    for name, inner in diff.items():
        if name[0] == "s" and len(name) > 1:
            was = before[name[1:]]
            after[name[1:]] = _changed_array(was, inner) if inner.get("a") else _changed(was, inner)
    return after


def _changed_array(before: Sequence[Any], diff: Row) -> list[Any]:
    after = [*before, *([None] * (diff.get("l", len(before)) - len(before)))][: diff.get("l")]
    for name, value in diff.items():
        if name[0] in "us" and name[1:].isdigit():
            at = int(name[1:])
            after += [None] * (at + 1 - len(after))
            if name[0] == "u":
                after[at] = value
            else:
                after[at] = _changed_array(before[at], value) if value.get("a") else _changed(before[at], value)
    return after


async def read_sights(
    client: Client, database: str, states: Iterable[DocumentState], variants: Iterable[int] = range(VARIANTS)
) -> dict[tuple[int, str], Sight]:
    """Have MongoDB find what each principal may see and write, under each variant of the rules."""
    scratch = client[f"{database}-states"]
    listed = [state for state in states if state.document is not None]
    for collection in COLLECTIONS:
        await scratch[collection].drop()
        rows = [
            _shortened(state.document or {}) | {"_id": state.number} for state in listed if state.key[0] == collection
        ]
        if rows:
            await scratch[collection].insert_many(rows)
    found = {}
    for variant in variants:
        for name, claims in SIGHTS.items():
            found[variant, name] = await _sight(scratch, variant, claims, listed)
    return found


def _shortened(document: Row) -> dict[str, Any]:
    """Return a document without what follows a canary to make an event large. No rule asks for such texts."""
    return {
        name: value[:_LONG] if isinstance(value, str) and len(value) > _LONG else value
        for name, value in document.items()
    }


async def _sight(scratch: Any, variant: int, claims: Row, listed: Sequence[DocumentState]) -> Sight:
    canaries: set[str] = set()
    states: set[int] = set()
    collections: set[str] = set()
    whole: set[str] = set()
    may: dict[str, set[int]] = {"create": set(), "update": set(), "delete": set()}
    for collection in COLLECTIONS:
        if (read := readable(variant, collection, claims)) is not None:
            collections.add(collection)
            whole.update([collection] if not read[0] else [])
            async for row in scratch[collection].find(read[0], read[1] or None, collation=_SIMPLE):
                states.add(row["_id"])
                canaries.update(CANARY.findall(str(row)))
        for act, numbers in may.items():
            if (where := writable(variant, collection, act, claims)) is not None:
                numbers.update([row["_id"] async for row in scratch[collection].find(where, {"_id": 1})])
    return Sight(
        frozenset(canaries),
        frozenset(states),
        {act: frozenset(numbers) for act, numbers in may.items()},
        {state.number: hidden(variant, state.key[0], claims, state.document or {}) for state in listed},
        {state.number: fixed(state.key[0], claims, state.document or {}) for state in listed},
        closed(variant, claims),
        frozenset(collections),
        frozenset(whole),
        is_unlimited(claims),
    )


async def read_right(
    client: Client, database: str, collection: str, where: Row, variant: int, claims: Row
) -> dict[str, tuple[int, Row]]:
    """Return what a client has to hold in the end, as MongoDB finds and shows it: version and document by id."""
    read = readable(variant, collection, claims)
    if read is None:
        return {}
    query, shown = {"$and": [read[0], where]}, dict(read[1])
    if 1 in shown.values():
        shown[FIELD] = 1
    rows = client[database][collection].find(query, shown or None, collation=_SIMPLE)
    right = {}
    async for row in rows:
        stamp = row.pop(FIELD, {"v": 0})
        right[str(format_id(row["_id"]))] = int(stamp["v"]), to_tree(row)
    return right
