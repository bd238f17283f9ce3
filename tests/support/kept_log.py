"""A log that an earlier version made, kept as a file, for tests that later versions read it.

The file is gzip of lines of JSON: a header, the documents of both databases as canonical Extended JSON, and the objects
of the archive. To keep a log of the version in this tree, in `tests/data`:

    PYTHONPATH=tests .venv/bin/python -m support.kept_log tests/data/log-0.1.ndjson.gz

It takes a few seconds and needs the embedded `mongod`. Never make an existing file again: it is what that version made.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
from bson import json_util
from bson.binary import Binary
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from eventsync import __version__
from eventsync.dev import mongod
from eventsync.domain.positions import LogId
from eventsync.domain.predicates.definitions import define
from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.change_stream import token_time, watch
from eventsync.mongodb.client import Client, connect
from eventsync.settings import Settings
from eventsync.stores.log.logs import cluster_identity
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from support.own_mongod import running_mongod
from support.replay import caught_up, eventually, tracked
from support.replica import Replica
from support.systems import running_server, running_worker
from support.waiting import patience

SMALL: Final[dict[str, Any]] = {
    "hot_events": 20,
    "segment_events": 50,
    "segment_block_bytes": 2048,
    "snapshot_events": 40,
    "snapshot_min_events": 1,
    "snapshot_chunk_bytes": 1024,
    "stream_wait": 0.05,
    # What is kept here is older than any of these, some day.
    "hot_age": 1e9,
    "operation_ttl": 1e9,
    "client_ttl": 1e9,
    "retention_age": 0.0,
    "squash_age": 0.0,
}
"""Settings by which a few events make segments and snapshots, and by which nothing expires."""

COLLECTIONS: Final = ("orders", "customers")
DOCUMENTS: Final = "/v1/collections/orders/documents"
PAID: Final = {"if-match": "*", "idempotency-key": "pay-1", "content-type": "application/merge-patch+json"}
CLIENT: Final = "kept-client"
_DATA, _LOG = "data", "log"
_ROUNDS: Final = 12
_ARCHIVED: Final = 100


@dataclass(frozen=True, slots=True)
class Kept:
    """The header: what made the log, and what has to be read from it."""

    eventsync: str
    log: str
    head: int
    archived_up_to: int
    digest: str
    """SHA-256 of all events of `orders`, in JSON with sorted keys."""
    key: str
    """The id of a service key."""
    vector: dict[str, str]
    """The stored vector of `CLIENT`."""


def read(file: Path) -> tuple[Kept, list[dict[str, Any]]]:
    """Return the header of a file, and its other lines."""
    header, *lines = gzip.decompress(file.read_bytes()).splitlines()
    return Kept(**orjson.loads(header)), [orjson.loads(line) for line in lines]


async def load(client: Client, settings: Settings, lines: Iterable[dict[str, Any]]) -> None:
    """Put a kept log into the databases and the archive of `settings`, as if it had been made there.

    MongoDB's own traces can't be kept: the identity of the replica set, and a token that its change stream knows.
    """
    stores = Stores.of(client, settings)
    for name in COLLECTIONS:
        await stores.data.create_collection(name, changeStreamPreAndPostImages={"enabled": True})
    for line in lines:
        if path := line.get("path"):
            file = Path(settings.archive_url) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(base64.b64decode(line["object"]))
        else:
            document = json_util.loads(orjson.dumps(line["document"]), json_options=json_util.CANONICAL_JSON_OPTIONS)
            database = stores.data if line["database"] == _DATA else stores.log
            await database.get_collection(line["collection"], codec_options=CODEC).insert_one(document)
    await stores.log["logs"].update_many({}, {"$set": {"cluster": await cluster_identity(stores.data)}})
    async with watch(stores.data, []) as stream:
        token = stream.token
    await stores.log["heads"].update_many({}, {"$set": {"token": token, "time": token_time(token)}})
    # The token is that of the next write, which may not be one of a tracked collection.
    await stores.data["elsewhere"].insert_one({})


async def events_of(url: str, log: str) -> tuple[Replica, str]:
    """Read `orders` from the first event on. Return what the events make, and their digest."""
    replica, live, digest = Replica("orders", f"{log}:0"), False, hashlib.sha256()
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        while not live:
            query: dict[str, Any] = {"shape": "orders", "position": replica.position, "limit": 50}
            page = (await client.get("/v1/sync/log", params=query)).raise_for_status().json()
            for event in page["events"]:
                digest.update(orjson.dumps(event, option=orjson.OPT_SORT_KEYS))
            replica.take_events(page["from"], page["to"], page["events"])
            live = page["live"]
    return replica, digest.hexdigest()


# --- making one -------------------------------------------------------------------------------------------------------


async def _make(client: Client, settings: Settings) -> list[bytes]:
    stores = Stores.of(client, settings)
    async with running_worker(settings), running_server(settings) as url:
        log = await tracked(stores, *COLLECTIONS)
        shape = define("of_state", "orders", {"state": "$state"}, {"state": ["text"]})
        await stores.definitions.apply([Declaration.of(shape)])
        await eventually(stores, "shapes", lambda: _active(stores, log))
        key = (await stores.credentials.keys.create("kept", roles=frozenset({"user"}), claims={}, expires=None))[0]
        async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
            await _write(http, stores)
            await caught_up(stores)
            await eventually(stores, "tiers", lambda: _archived(stores, log))
            vector = {"orders": f"{log}:40"}
            (await http.put(f"/v1/state-vectors/{CLIENT}", json={"vector": vector})).raise_for_status()
        digest = (await events_of(url, log))[1]
    # Both are stopped: nothing changes any more.
    tiers, head = await stores.tiers.read(log), await stores.events.tail(log)
    if head is None:
        raise RuntimeError("the log is empty")
    kept = Kept(__version__, log, head.seq, tiers.archived_up_to, digest, key.id, vector)
    return [orjson.dumps(asdict(kept)), *[line async for line in _dump(stores)]]


async def _active(stores: Stores, log: LogId) -> bool | None:
    shapes = (await stores.definitions.read()).shapes
    return True if shapes and all(shape.log == log for shape in shapes) else None


async def _archived(stores: Stores, log: LogId) -> bool | None:
    return True if (await stores.tiers.read(log)).archived_up_to >= _ARCHIVED else None


async def _write(http: httpx.AsyncClient, stores: Stores) -> None:
    """Write through the API and behind its back, in values of many types."""
    orders = stores.data.get_collection("orders", codec_options=CODEC)
    await orders.insert_many(
        [
            {"_id": n, "n": Int64(n), "price": Decimal128("9.90"), "raw": Binary(bytes([n])), "state": "new"}
            for n in range(8)
        ]
    )
    await orders.insert_one({"_id": {"shop": "b", "no": Int64(7)}, "a.b": {"$x": 1}, "state": "odd", "list": [1, 2.0]})
    (await http.put(f"{DOCUMENTS}/text", json={"state": "new", "lines": [{"sku": "a1", "qty": 1}]})).raise_for_status()
    for number in range(_ROUNDS):
        await orders.update_many({"_id": {"$type": "int"}}, {"$inc": {"n": 1}, "$push": {"list": number}})
        patch = [{"op": "add", "path": "/lines/-", "value": {"sku": f"b{number}", "qty": number}}]
        (await http.patch(f"{DOCUMENTS}/text", content=orjson.dumps(patch), headers=_PATCH)).raise_for_status()
    operations = [
        {"method": "PUT", "collection": "customers", "id": "ann", "doc": {"name": "Ann"}},
        {"method": "PATCH", "collection": "orders", "id": "int:1", "patch": {"state": "sent"}},
        {"method": "DELETE", "collection": "orders", "id": "int:2"},
    ]
    (await http.post("/v1/transactions", json={"operations": operations})).raise_for_status()
    (await http.patch(f"{DOCUMENTS}/text", json={"state": "paid"}, headers=PAID)).raise_for_status()


_PATCH: Final = {"content-type": "application/json-patch+json"}


async def _dump(stores: Stores) -> AsyncIterator[bytes]:
    for word, database in ((_DATA, stores.data), (_LOG, stores.log)):
        for name in sorted(await database.list_collection_names(filter={"name": {"$not": {"$regex": "^system"}}})):
            async for document in database.get_collection(name, codec_options=CODEC).find():
                text = json_util.dumps(document, json_options=json_util.CANONICAL_JSON_OPTIONS)
                line = {"database": word, "collection": name, "document": orjson.loads(text)}
                yield orjson.dumps(line)


def _objects(archive: Path) -> Iterator[bytes]:
    for file in sorted(path for path in archive.rglob("*") if path.is_file()):
        content = base64.b64encode(file.read_bytes()).decode()
        yield orjson.dumps({"path": str(file.relative_to(archive)), "object": content})


async def _keep(directory: Path) -> list[bytes]:
    archive = directory / "archive"
    with running_mongod(directory) as port:
        settings = Settings(
            mongodb_uri=mongod.uri(port), database="kept", collections=COLLECTIONS, archive_url=str(archive),
            checkpoint_interval=0.25, **SMALL,
        )  # fmt: skip
        async with connect(settings, "test") as client:
            return [*await _make(client, settings), *_objects(archive)]


def _main(file: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        lines = asyncio.run(_keep(Path(directory)))
    file.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", mtime=0))
    print(f"{file}: {len(lines)} lines, {file.stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
