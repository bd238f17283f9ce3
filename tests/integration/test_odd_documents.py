"""Documents that a driver can't decode go the whole way: into the log and every snapshot, to clients, and back.

With `EVENTSYNC_TEST_MUTANTS=10000` the random ones are many.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from urllib.parse import quote

import httpx
import orjson
import pytest
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from eventsync.cli.verify import prove
from eventsync.domain.bson_scan.opaque import encode, is_odd
from eventsync.domain.ids import format_id
from eventsync.domain.positions import Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.domain.stamp import unversioned
from eventsync.domain.values.extended_json import RAW_CODEC, decode, same
from eventsync.settings import Settings
from eventsync.stores.history.restore import Restore
from eventsync.stores.stores import Stores
from support.histories import based
from support.mutants import ODD, ODD_IDS, deep, framed, mutants
from support.replay import caught_up, current_log, tracked
from support.systems import running_system, running_worker
from support.waiting import eventually, patience

COUNT = int(os.environ.get("EVENTSYNC_TEST_MUTANTS", "60"))
SEED = int(os.environ.get("EVENTSYNC_TEST_SEED") or secrets.randbits(32))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs", "others")})


async def store(stores: Stores, documents: Iterable[bytes]) -> int:
    """Insert what MongoDB takes of these; returns how many."""
    taken = 0
    for raw in documents:
        try:
            answer = await stores.data.command({"insert": "docs", "documents": [RawBSONDocument(raw, RAW_CODEC)]})
        except (OperationFailure, InvalidBSON):
            continue  # it is no BSON, MongoDB says, or no id; in an answer that may be none either
        taken += answer["n"]
    return taken


def key(number: int) -> bytes:
    return b"\x10_id\0" + struct.pack("<i", number)


def handmade(start: int) -> list[bytes]:
    """Every odd value in a document of its own, and all ids."""
    made = [framed(key(start + n), element) for n, element in enumerate([*ODD.values(), deep(170)])]
    return made + [framed(element, b"\x10n\0" + struct.pack("<i", start)) for element in ODD_IDS.values()]


def random_ones(seed: int, start: int, count: int) -> list[bytes]:
    return [next(mutants(seed + n, key(start + n))) for n in range(count)]


async def raws(stores: Stores, name: str = "docs") -> dict[str, bytes]:
    cursor = stores.data.get_collection(name, codec_options=RAW_CODEC).find()
    return {format_id(decode(raw.raw)["_id"]): bytes(raw.raw) async for raw in cursor}


async def change_all(stores: Stores, round_: int) -> None:
    """Updates of every document, a replacement here, a deletion there."""
    docs = stores.data.get_collection("docs", codec_options=RAW_CODEC)
    await docs.update_many({"_id": {"$type": "int"}}, {"$set": {f"round{round_}": round_}})
    await docs.update_many({"_id": {"$type": "int"}, "v": {"$exists": True}}, {"$rename": {"v": f"w{round_}"}})
    await docs.delete_one({"_id": {"$type": "string"}})


async def _has_base(stores: Stores) -> bool:
    return await stores.log["snapshots"].find_one({"c": "docs", "complete": True}) is not None


async def assert_proved(stores: Stores, settings: Settings) -> None:
    await caught_up(stores)
    # States are made from the base snapshot, which may be stored after the first changes.
    await eventually(lambda: _has_base(stores))
    report = await prove(settings, [])
    assert report.whole, f"seed {SEED}: {report.tree()}"


@asynccontextmanager
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=patience(30)) as opened:
        yield opened


@pytest.mark.slow
async def test_they_are_sequenced_repaired_stored_proved_and_restored(stores: Stores, settings: Settings) -> None:
    half = COUNT // 2
    taken = await store(stores, [*handmade(0), *random_ones(SEED, 1000, half)])
    async with running_worker(settings):
        log = await tracked(stores, "docs", "others")
        await based(stores, log, "docs")
        await assert_proved(stores, settings)
        await change_all(stores, 1)
        await stores.data["docs"].delete_many({"_id": {"$type": "int", "$mod": [5, 0]}})
        taken += await store(stores, [*handmade(100_000)[: len(ODD) + 1], *random_ones(SEED + half, 101_000, half)])
        await change_all(stores, 2)
        await stores.data["others"].insert_one({"_id": "unharmed"})
        await assert_proved(stores, settings)
    await stores.logs.begin_repair(log, "the test asks for it")
    await change_all(stores, 3)
    taken += await store(stores, random_ones(SEED + COUNT, 200_000, half))
    assert taken > len(ODD) + len(ODD_IDS), "MongoDB takes many of them"
    async with running_worker(settings):
        await assert_proved(stores, settings)
        assert await current_log(stores) == log
        await assert_restored(stores)
        await assert_squashed(stores)


async def assert_restored(stores: Stores) -> None:
    """A restore writes the same documents, and those that are odd with the same bytes."""
    log = await caught_up(stores)
    tail = await stores.events.tail(log)
    position = Position(log, tail.seq if tail else Seq(0))
    restoring = Restore(stores)
    await restoring.run(await restoring.source("docs", position), "restored")
    stored, restored = await raws(stores), await raws(stores, "restored")
    assert stored.keys() == restored.keys()
    for text, raw in stored.items():
        (version, document), (also, found) = unversioned(decode(raw)), unversioned(decode(restored[text]))
        assert version == also
        assert same(document, found), (SEED, text)
        assert not is_odd(document) or len(encode(document)) == len(encode(found)), text


async def assert_squashed(stores: Stores) -> None:
    """Answers for clients that are behind have what the collection has."""
    log = await current_log(stores)
    checkpoint = await stores.logs.read_checkpoint(log)
    assert checkpoint is not None
    found = {}
    async with aclosing(stores.snapshots.squashed.touched(log, "docs", after=Seq(0), up_to=checkpoint.seq)) as touched:
        async for ids in touched:
            async with aclosing(stores.snapshots.squashed.rows(Shape("docs"), ids, checkpoint.time)) as rows:
                async for row in rows:
                    tree = orjson.loads(row)
                    found[tree["id"]] = tree
    stored = await raws(stores)
    assert {text for text, tree in found.items() if "doc" in tree} <= stored.keys()
    assert stored.keys() - found.keys() <= {text for text in stored if not text.startswith("int:")}


async def test_clients_get_and_change_them(stores: Stores, settings: Settings) -> None:
    await store(stores, [*handmade(0), *random_ones(SEED, 1000, COUNT // 2)])
    async with running_system(settings) as url, client(url) as http:
        await based(stores, await current_log(stores), "docs")
        ids = set(await raws(stores))
        assert await listed(http) == ids
        snapshot = (await http.get("/v1/sync/snapshot", params={"shape": "docs"})).text.splitlines()
        assert {orjson.loads(line)["id"] for line in snapshot[1:]} == ids
        for text in ids:
            await read_and_written(http, text)
        await assert_proved(stores, settings)
        for text in ids:
            assert (await http.delete(path(text))).status_code == 200, (SEED, text)
        await caught_up(stores)
        assert await listed(http) == set()
        await assert_proved(stores, settings)


async def read_and_written(http: httpx.AsyncClient, text: str) -> None:
    """Reads, a patch beside what is odd, and the document put back as it was got."""
    answer = await http.get(path(text))
    assert answer.status_code == 200, (SEED, text, answer.text)
    assert (await http.get(f"{path(text)}/events")).status_code == 200
    merge = {"Content-Type": "application/merge-patch+json"}
    patched = await http.patch(path(text), content=b'{"beside": 1}', headers=merge)
    assert patched.status_code == 200 or understood(patched), (SEED, text, patched.text)
    again = (await http.get(path(text))).json()["doc"]
    put = await http.put(path(text), json=again | {"put": 1})
    assert put.status_code == 200 or understood(put), (SEED, text, put.text)


def understood(answer: httpx.Response) -> bool:
    """A clear refusal."""
    return 400 <= answer.status_code < 500 and answer.json()["code"] in {"malformed", "patch_failed", "too_large"}


async def listed(http: httpx.AsyncClient) -> set[str]:
    found: set[str] = set()
    after: str | None = None
    while True:
        query = {"limit": "7"} | ({"after": after} if after is not None else {})
        answer = await http.get("/v1/collections/docs/documents", params=query)
        assert answer.status_code == 200, (SEED, after, answer.text)
        page = answer.json()
        found |= {row["id"] for row in page["documents"]}
        if (after := page.get("next")) is None:
            return found


def path(text: str) -> str:
    return f"/v1/collections/docs/documents/{quote(text, safe='')}"


@pytest.mark.parametrize("name", ["a binary whose inner length is wrong", "text that is not UTF-8"])
async def test_a_value_that_is_not_touched_keeps_its_bytes(stores: Stores, settings: Settings, name: str) -> None:
    await store(stores, [framed(key(1), ODD[name], b"\x04l\0" + framed(ODD[name].replace(b"v", b"0", 1)))])
    async with running_system(settings) as url, client(url) as http:
        document = (await http.get(path("int:1"))).json()["doc"]
        merge = {"Content-Type": "application/merge-patch+json"}
        await http.patch(path("int:1"), content=b'{"beside": 1}', headers=merge)
        put = await http.put(path("int:1"), json=document | {"l": [*document["l"], "more"]})
        assert put.status_code == 200
        _, stored = unversioned(decode((await raws(stores))["int:1"]))
        assert encode({"v": stored["v"]}) == framed(ODD[name])
        assert encode({"v": stored["l"][0]}) == framed(ODD[name])
        assert stored["l"][1] == "more"
        await assert_proved(stores, settings)


OPAQUE = {"$opaque": {"type": "05", "base64": "AwAAAAJhYmM="}}


@pytest.mark.parametrize(
    "value",
    [
        OPAQUE,
        [{"in": OPAQUE}],
        {"$ref": "c", "$id": OPAQUE},
        {"$code": "f()", "$scope": {"s": OPAQUE}},
        {"$binary": {"base64": "YQ==", "subType": "04"}},
    ],
    ids=["alone", "within", "in a reference", "in a scope", "a uuid of one byte"],
)
async def test_a_client_cannot_bring_a_new_one(stores: Stores, settings: Settings, value: object) -> None:
    async with running_system(settings) as url, client(url) as http:
        answer = await http.post("/v1/collections/docs/documents", json={"_id": 1, "v": value})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
        assert await raws(stores) == {}


async def test_an_alarm_is_given_for_each_change(
    stores: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_worker(settings):
        await tracked(stores, "docs")
        await store(stores, [framed(key(7), ODD["a binary whose inner length is wrong"])])
        await caught_up(stores)
    alarms = [record.getMessage() for record in caplog.records if "ALARM" in record.getMessage()]
    assert len(alarms) == 1
    assert "docs/int:7" in alarms[0]
