"""The JavaScript client package under Node.js, against a real server and a network that fails."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import bson
import httpx
import orjson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex, Timestamp

from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.ruled import moved_system
from support.systems import running_server, running_system
from support.tcp_proxy import tcp_proxy
from support.waiting import patience, within

DRIVER = Path(__file__).with_name("js_client.mjs")
TRANSPORTS = ("websocket", "sse", "poll")
LIVE = "await state.live();"
TANSTACK = DRIVER.parents[2] / "clients/js/node_modules/@tanstack/db"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


class Program:
    """A program in JavaScript that holds a client as `db`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, body: str) -> Any:
        """Run the body of an async function; return what it returns."""
        self._write(orjson.dumps(body))
        return await self._answer()

    async def again(self) -> None:
        """Close the client, and create another one that has its store."""
        self._write(b"again")
        await self._answer()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        async with within(30):
            while line := await self._process.stdout.readline():
                said = orjson.loads(line)
                assert "error" not in said, said["error"]
                if "value" in said:
                    return said["value"]
        raise AssertionError("the program has ended")


@asynccontextmanager
async def program(url: str, **options: Any) -> AsyncIterator[Program]:
    pipe = asyncio.subprocess.PIPE
    command = ("node", "--experimental-websocket", "--no-warnings", str(DRIVER))
    wanted = orjson.dumps({"url": url, **options}).decode()
    process = await asyncio.create_subprocess_exec(*command, wanted, stdin=pipe, stdout=pipe, limit=2**24)
    try:
        yield Program(process)
    finally:
        process.kill()
        # Reads what is left, so that its pipes are closed here and not by the garbage collector.
        await process.communicate()


async def stored(url: str, collection: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
        rows = (await http.get(f"/v1/collections/{collection}/documents")).json()["documents"]
    return {row["id"]: {"version": row["version"], "doc": row["doc"]} for row in rows}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_writes_are_seen_at_once_and_end_as_the_server_has_them(settings: Settings, transport: str) -> None:
    async with running_system(settings) as url, program(url, transport=transport) as client:
        await client.run(f"state.c = db.collection('accounts'); state.c.subscribe(() => {{}}); {LIVE}")
        seen = await client.run(
            """
            const { id, done } = await state.c.insert({ n: 1, long: { $numberLong: "9007199254740993" } });
            const first = state.c.documents.get(id);
            await state.c.patch(id, { n: 2, at: { $date: "2026-11-23T05:22:46.405Z" } });
            await state.c.patch(id, [{ op: "add", path: "/list", value: [3] }]);
            await state.c.replace("int:7", { n: 7 });
            const last = await state.c.insert({ _id: "gone" });
            await last.done;
            await (await state.c.remove("gone")).done;
            return [id, first, state.c.get(id), (await done).version];
            """
        )
        document = seen[0]
        assert seen[1] == {
            "version": 0,
            "doc": {"_id": {"$oid": document}, "n": 1, "long": {"$numberLong": "9007199254740993"}},
            "pending": True,
        }
        assert seen[2]["n"] == 2
        assert seen[2]["list"] == [3]
        assert seen[3] == 1
        held = await client.run(
            """
            await state.settled();
            return Object.fromEntries(state.c.documents);
            """
        )
        want = await stored(url, "accounts")
        want[document]["doc"]["long"] = {"$numberLong": str(want[document]["doc"]["long"])}
        assert held == want
        assert set(held) == {document, "int:7"}
        history = await client.run(
            f"return (await state.c.history('{document}')).events.map(({{ version }}) => version)"
        )
        assert history == [1, 2, 3]
        assert (await client.run(f"return (await state.c.at('{document}', 2)).doc.n")) == 2


async def test_native_values_are_stored_with_the_types_that_they_were_read_with(
    settings: Settings, stores: Stores
) -> None:
    """A document that another program has written, and a copy of it that the client writes."""
    document = {
        "oid": ObjectId(),
        "date": dt.datetime(2026, 12, 1, 5, 22, 46, 405_000, dt.UTC),
        "early": dt.datetime(1, 1, 1, tzinfo=dt.UTC),
        "bytes": b"\xde\xad",
        "tagged": Binary(b"\x00", 0x80),
        "long": Int64(2**60 + 1),
        "least": Int64(-(2**63)),
        "double": 0.1,
        "large": 1e300,
        "whole": float(2**60),
        "infinite": float("-inf"),
        "decimal": Decimal128("9.90"),
        "time": Timestamp(1_700_000_000, 1),
        "pattern": Regex("^a/", "i"),
        "list": [{"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, None, True, 7, "𝄞"],
    }
    collection = stores.data["accounts"]
    async with running_system(settings) as url, program(url, native=True) as client:
        await client.run(f"state.c = db.collection('accounts'); state.c.subscribe(() => {{}}); {LIVE}")
        await collection.insert_one({"_id": "a", **document})
        seen = await client.run(
            """
            await new Promise((done) => state.c.get("a") ? done() : state.c.subscribe(done));
            const { _id, ...rest } = state.c.get("a");
            await (await state.c.insert({ _id: "b", ...rest })).settled;
            return Object.entries(state.c.get("b")).map(([name, value]) => [name, value.constructor.name]);
            """
        )
        kinds = {"oid": "ObjectId", "date": "Date", "early": "Date", "bytes": "Uint8Array", "long": "BigInt"}
        assert kinds.items() <= dict(seen).items()
        found = [await collection.find_one({"_id": name}, {"_id": 0, "_sync": 0}) for name in ("a", "b")]
        assert [bson.encode(copy or {}) for copy in found] == [bson.encode(document)] * 2


@pytest.mark.slow
@pytest.mark.skipif(not TANSTACK.is_dir(), reason="needs npm packages: scripts/peers installs them")
async def test_a_collection_of_tanstack_db_ends_as_the_server_has_it(settings: Settings) -> None:
    async with running_system(settings) as url, tcp_proxy(url) as proxy, program(proxy.url) as client:
        await client.run(
            """
            state.cards = state.collectionOf(db.collection("accounts"));
            await state.cards.preload();
            state.seen = [];
            state.cards.subscribeChanges((changes) => state.seen.push(...changes.map(({ value }) => value.n)));
            await state.cards.insert({ _id: "a", n: 0 }).isPersisted.promise;
            await state.cards.insert({ _id: "gone", n: 0 }).isPersisted.promise;
            """
        )
        for number in range(1, 6):
            proxy.cut()
            await client.run(f"await state.cards.update('a', (card) => {{ card.n = {number}; }}).isPersisted.promise")
        await client.run("await state.cards.delete('gone').isPersisted.promise")
        refused = await client.run(
            """
            const shown = () => state.cards.get("a").n;
            const transaction = state.cards.update("a", (card) => { card.n = 9; card["bad\\0name"] = 1; });
            const before = shown();
            const problem = await transaction.isPersisted.promise.catch(({ code }) => code);
            return [before, problem, shown()];
            """
        )
        assert refused == [9, "malformed", 5]
        held = await client.run("return Object.fromEntries(state.cards.toArray.map(({ _id, n }) => [_id, { _id, n }]))")
        assert held == {name: row["doc"] for name, row in (await stored(url, "accounts")).items()}
        assert held == {"a": {"_id": "a", "n": 5}}
        seen = await client.run("return state.seen.filter((n, at) => n !== state.seen[at - 1])")
        assert seen == [0, 1, 2, 3, 4, 5, 0, 9, 5]


async def test_writes_of_a_client_that_is_cut_off_arrive_once(settings: Settings) -> None:
    async with running_system(settings) as url, tcp_proxy(url) as proxy, program(proxy.url) as client:
        await client.run(f"state.c = db.collection('accounts'); state.c.subscribe(() => {{}}); {LIVE}")
        await client.run("await (await state.c.insert({ _id: 'a', n: 0, list: [] })).done")
        for number in range(5):
            proxy.cut()
            await client.run(
                f"await state.c.patch('a', [{{ op: 'add', path: '/list/-', value: {number} }}]);"
                f"await state.c.patch('a', {{ n: {number} }})"
            )
        await client.run("await state.c.replace('b', { n: 1 }).then(({ done }) => done)")
        await client.run("await state.c.patch('a', { last: true }).then(({ done }) => done)")
        document = (await stored(url, "accounts"))["a"]
        assert document["doc"] == {"_id": "a", "n": 4, "list": [0, 1, 2, 3, 4], "last": True}
        assert document["version"] == 11  # the first `n` changes nothing
        await client.run("await new Promise((done) => state.c.get('a')?.last ? done() : state.c.subscribe(done))")


async def test_a_refused_write_is_taken_back(settings: Settings) -> None:
    async with running_system(settings) as url, program(url) as client:
        await client.run(f"state.c = db.collection('accounts'); state.c.subscribe(() => {{}}); {LIVE}")
        await client.run("await (await state.c.insert({ _id: 'a', n: 0 })).done")
        refused = await client.run(
            """
            const { done } = await state.c.patch("a", { n: 1 }, { ifMatch: 9 });
            const seen = state.c.get("a").n;
            const problem = await done.catch((error) => [error.code, error.status, error.problem.current]);
            return [seen, problem, state.c.get("a").n, state.rejected];
            """
        )
        assert refused == [1, ["version_mismatch", 412, 1], 0, [["a", "version_mismatch"]]]


@pytest.mark.slow
async def test_a_barrier_is_reached_where_nothing_happens(settings: Settings) -> None:
    """A write by another server is there, and no heartbeat comes while the test runs."""
    quiet = settings.model_copy(update={"heartbeat": 3600.0})
    async with (
        running_system(quiet) as url,
        running_server(quiet) as other,
        program(url, transport="websocket") as client,
        httpx.AsyncClient(base_url=other, timeout=patience(20)) as http,
    ):
        await client.run(
            f"""
            const shapes = [db.collection("accounts"), db.collection("theaters"), db.document("accounts", "nobody")];
            for (const shape of shapes) shape.subscribe(() => {{}});
            {LIVE}
            """
        )
        for number in range(5):
            (await http.put(f"/v1/collections/accounts/documents/a{number}", json={"n": number})).raise_for_status()
            seen = await client.run(
                f"""
                const {{ log, seq }} = await db.barrier();
                const isBehind = (position) => !position.startsWith(log) || Number(position.split(":")[1]) < seq;
                while (Object.values(db.vector).some(isBehind)) await new Promise((done) => setTimeout(done, 5));
                return [db.collection("accounts").get("a{number}").n, Object.keys(db.vector).length];
                """
            )
            assert seen == [number, 3]


async def test_a_client_that_comes_back_continues_from_its_store(settings: Settings) -> None:
    async with running_system(settings) as url, program(url, clientId="js") as client:
        await client.run(f"db.collection('accounts').subscribe(() => {{}}); {LIVE}")
        await client.run("await (await db.collection('accounts').insert({ _id: 'a', n: 0 })).done")
        await client.run("await state.settled()")
        await client.again()
        await client.run("state.s = []; db.collection('accounts').subscribe(({ source }) => state.s.push(source))")
        sources = await client.run(f"{LIVE} return state.s")
        assert sources[0] == "cache"
        assert "snapshot" not in sources


async def test_a_token_is_renewed_on_the_live_connection(settings: Settings, tmp_path: Path) -> None:
    often = settings.model_copy(update={"collections": ("docs",), "heartbeat": 2.0})
    async with moved_system(often, tmp_path) as system:
        now = int(system.clock.now())
        tokens = [system.token(exp=now + 4), system.token(exp=now + 3000)]
        async with program(system.url, tokens=tokens) as client:
            await client.run(f"state.c = db.collection('docs'); state.c.subscribe(() => {{}}); {LIVE}")
            await client.run("while (state.asked.length < 2) await new Promise((done) => setTimeout(done, 20))")
            await client.run("await (await state.c.insert({ _id: 'a' })).done")
            system.advance(100)
            await system.write("b", n=1)
            await client.run("await new Promise((done) => state.c.get('b') ? done() : state.c.subscribe(done))")
            assert await client.run("return [state.asked, db.status.name]") == [["connect", "expiring"], "live"]


@pytest.mark.slow
async def test_a_token_that_is_refused_is_asked_for_again_once(settings: Settings, tmp_path: Path) -> None:
    of_docs = settings.model_copy(update={"collections": ("docs",)})
    async with moved_system(of_docs, tmp_path) as system:
        old = system.token(exp=int(system.clock.now()) - 60)
        for transport in TRANSPORTS:
            async with program(system.url, tokens=[old, system.token()], transport=transport) as client:
                await client.run(f"db.collection('docs').subscribe(() => {{}}); {LIVE}")
                assert await client.run("return state.asked") == ["connect", "refused"]
        async with program(system.url, tokens=[old]) as client:
            await client.run("db.collection('docs').subscribe(() => {})")
            failed = "await new Promise((done) => db.on('status', ({ name }) => name === 'failed' && done()));"
            assert await client.run(f"{failed} return [db.status.reason, db.status.code]") == ["token_expired", 4401]
