"""A server's resident memory while clients send and request as much as they can."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from bson.timestamp import Timestamp
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores
from support.raw_websocket import CONTINUATION, PING, PONG, TEXT, frame
from support.replica import seq_of
from support.systems import MIB, Growth, Processes, followed, growth, head, tracked
from support.waiting import patience, within

pytestmark = pytest.mark.slow

MUCH = 40 * MIB
"""Bytes that an attack tries to send."""

LITTLE = 48 * MIB
"""Bytes that a server may grow by meanwhile: a body, some reads of the network, what the allocator keeps. Without
bounds each of these attacks takes 200 MB to 1.5 GB."""

HELD = 64 * MIB
"""The setting `held_bytes`: the bytes that requests may hold together."""


@dataclass(frozen=True)
class Served:
    url: str
    pid: int
    collection: AsyncCollection[Any]


@pytest.fixture(scope="module")
async def served(mongodb_uri: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server without a worker, which would turn each large document into a large event meanwhile."""
    name = f"memory_{secrets.token_hex(6)}"
    settings = Settings(
        mongodb_uri=mongodb_uri, database=name, collections=("docs",), checkpoint_interval=0.1, held_bytes=HELD
    )
    processes = Processes(settings, tmp_path_factory.mktemp("memory"), fresh=True)
    processes.start("worker", "serve")
    try:
        await tracked(processes.url, settings.collections)
        await followed(processes.url)
        processes.signal(signal.SIGTERM, "worker")
        assert await processes.ended("worker", seconds=patience(20)) == 0
        yield Served(processes.url, processes.pid("serve"), client[name]["docs"])
    finally:
        processes.stop()
        await client.drop_database(name)
        await client.drop_database(settings.log_db)


# --- what is sent -----------------------------------------------------------------------------------------------------

HEAD = b"POST /v1/collections/docs/documents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def repeated(begin: bytes, piece: bytes, size: int = MUCH) -> Iterator[bytes]:
    """`begin`, and then `piece` again and again, in writes of about 64 KiB."""
    yield begin
    block = piece * max(1, 64 * 1024 // len(piece))
    for _ in range(size // len(block)):
        yield block


ATTACKS = {
    "trailers": (CHUNKED + b"1\r\n1\r\n0\r\n", b"a: b\r\n", 413),
    "one long trailer": (CHUNKED + b"1\r\n1\r\n0\r\na: ", b"b", 413),
    "chunk extensions": (CHUNKED, b"1;a=b;c=d;e=f;g=h;i=j\r\n1\r\n", 413),
    "one long chunk extension": (CHUNKED + b"1;a=", b"b", 413),
    "small chunks": (CHUNKED, b"1\r\n1\r\n", 413),
    "a long body": (CHUNKED, b"1000\r\n" + b"1" * 4096 + b"\r\n", 413),
    "a body of blank lines": (CHUNKED, b"1000\r\n" + b"\r\n" * 2048 + b"\r\n", 413),
    "a long announced body": (HEAD + b"Content-Length: 1000000000\r\n\r\n", b"1", 413),
    "a body of another type": (CHUNKED.replace(b"/json", b"/xml"), b"1000\r\n" + b"1" * 4096 + b"\r\n", 415),
    "a body for nothing": (CHUNKED.replace(b"/docs/", b"/none/"), b"1000\r\n" + b"1" * 4096 + b"\r\n", 404),
    "a body of a GET": (CHUNKED.replace(b"POST", b"GET"), b"1000\r\n" + b"1" * 4096 + b"\r\n", 200),
    "a body that was not asked for": (
        HEAD + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n",
        b"1",
        413,
    ),
    "many fields": (HEAD, b"a: b\r\n", 431),
    "fields without a value": (HEAD, b"a:\r\n", 431),
    "one long field": (HEAD + b"a: ", b"b", 431),
    "a long name": (HEAD, b"b", 431),
    "folded fields": (HEAD + b"a: b\r\n", b" b\r\n", 400),
    "a long line": (b"GET /v1/collections?a=", b"b", 431),
    "a long method": (b"", b"GET", 400),
    "blank lines": (b"", b"\r\n", 431),
}


@pytest.mark.parametrize(("begin", "piece", "status"), ATTACKS.values(), ids=list(ATTACKS))
async def test_the_bytes_of_a_request_are_counted(served: Served, begin: bytes, piece: bytes, status: int) -> None:
    with growth(served.pid) as grown:
        answer = await sent(served.url, repeated(begin, piece))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert grown.bytes < LITTLE


@pytest.mark.parametrize("waiting", ["/v1/sync/sse?shape=docs", "/v1/sync/log?shape=docs&position={head}&wait=60"])
async def test_requests_behind_one_that_is_not_answered_wait_as_they_came(served: Served, waiting: str) -> None:
    async with connection(served.url) as (_, writer):
        first = waiting.format(head=await head(served.url))
        writer.write(f"GET {first} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with growth(served.pid) as grown:
            for block in repeated(b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                writer.write(block)
            # The server takes no more, or it has taken all.
            await taken(served, writer)
    assert grown.bytes < LITTLE


async def test_each_answer_makes_room_for_one_more_request(served: Served) -> None:
    async with connection(served.url) as (reader, writer):
        with growth(served.pid) as grown:
            for block in repeated(b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                writer.write(block)
            for _ in range(200):
                await reader.readuntil(b"\r\n\r\n{")
    assert grown.bytes < LITTLE


async def test_answers_that_are_not_read_hold_up_further_requests(served: Served) -> None:
    async with connection(served.url, limit=4096) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        with growth(served.pid) as grown:
            for block in repeated(b"", b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                writer.write(block)
            await taken(served, writer)
    assert grown.bytes < LITTLE


HELLO = frame(TEXT, json.dumps({"type": "hello"}).encode())
UPGRADE = (
    b"GET /v1/sync HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FRAMES = {
    "pings": (HELLO, frame(PING, b"")),
    "large pings": (HELLO, frame(PING, b"x" * 125)),
    "pongs": (HELLO, frame(PONG, b"")),
    "messages": (HELLO, frame(TEXT, b"{}")),
    "empty fragments": (HELLO + frame(TEXT, b"", fin=False), frame(CONTINUATION, b"", fin=False)),
    "large fragments": (HELLO + frame(TEXT, b"", fin=False), frame(CONTINUATION, b"x" * 4096, fin=False)),
    "one long frame": (HELLO + b"\x81\xff\x00\x00\x00\x00\x40\x00\x00\x00" + b"mask", b"x"),
    "nothing but pings": (b"", frame(PING, b"")),
    "what is no frame": (b"", b"\xff"),
}


@pytest.mark.parametrize(("begin", "piece"), FRAMES.values(), ids=list(FRAMES))
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
async def test_frames_of_a_websocket_are_counted(served: Served, begin: bytes, piece: bytes, reads: bool) -> None:
    async with connection(served.url, limit=4096) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        reading = asyncio.ensure_future(drained(reader)) if reads else None
        with growth(served.pid) as grown:
            for block in repeated(begin, piece, MUCH // 4):
                writer.write(block)
            await taken(served, writer)
        if reading is not None:
            reading.cancel()
    assert grown.bytes < LITTLE


# --- what is asked for ------------------------------------------------------------------------------------------------

LARGE = 14_000_000


@pytest.fixture(scope="module")
async def large(served: Served) -> AsyncIterator[list[str]]:
    """The ids of documents that have 112 MB together."""
    ids = [f"large{number:02}" for number in range(8)]
    for text in ids:
        await served.collection.insert_one({"_id": text, "text": "x" * LARGE})
    yield ids
    await served.collection.delete_many({})


async def test_a_listing_of_large_documents_is_bounded_in_bytes(served: Served, large: list[str]) -> None:
    async with httpx.AsyncClient(base_url=served.url, timeout=patience(60)) as client:

        async def listed() -> list[str]:
            found: list[str] = []
            query = {"limit": "1000"}
            while True:
                answer = await client.get("/v1/collections/docs/documents", params=query)
                if answer.status_code == 503:
                    # Another listing holds the bytes. Each attempt has the server read a document before it refuses.
                    await asyncio.sleep(0.2)
                    continue
                page = answer.json()
                found += [row["id"] for row in page["documents"]]
                if "next" not in page:
                    return found
                query["after"] = page["next"]

        with growth(served.pid) as grown:
            assert await asyncio.gather(*(listed() for _ in range(3))) == [large] * 3
    assert grown.bytes < 3 * HELD


@pytest.fixture
async def halves(served: Served) -> AsyncIterator[None]:
    """Documents of half a megabyte, of which MongoDB sends 32 at once."""
    for number in range(40):
        await served.collection.insert_one({"_id": f"half{number:02}", "text": "x" * 500_000})
    yield
    await served.collection.delete_many({"_id": {"$regex": "^half"}})


@pytest.mark.parametrize(
    "path", ["/v1/collections/docs/documents?limit=1000", "/v1/collections/docs/documents/large00"]
)
async def test_reads_for_many_clients_are_bounded(served: Served, large: list[str], halves: None, path: str) -> None:
    """An answer of MongoDB is in memory before it can be counted and refused."""
    async with httpx.AsyncClient(base_url=served.url, timeout=patience(60), limits=httpx.Limits()) as client:
        await client.get(f"/v1/collections/docs/documents/{large[0]}")
        with growth(served.pid) as grown:

            async def asked() -> int:
                async with client.stream("GET", path) as answer:
                    return answer.status_code

            statuses = await asyncio.gather(*(asked() for _ in range(60)))
    assert set(statuses) <= {200, 503}
    assert grown.bytes < 5 * HELD


@asynccontextmanager
async def unread(served: Served, paths: Sequence[str], count: int) -> AsyncIterator[tuple[list[int], Growth]]:
    """Ask `count` times for one of the paths after the other. While the block runs, read nothing but the statuses.

    Yield these, and what the server grew by meanwhile.
    """
    statuses: list[int] = []
    async with AsyncExitStack() as stack:
        with growth(served.pid) as grown:
            for number in range(count):
                reader, writer = await stack.enter_async_context(connection(served.url, limit=4096))
                writer.write(f"GET {paths[number % len(paths)]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                async with within(60):
                    statuses.append(int((await reader.readuntil(b"\r\n")).split()[1]))
        yield statuses, grown


async def test_answers_that_are_not_read_are_bounded_together(served: Served, large: list[str]) -> None:
    paths = [f"/v1/collections/docs/documents/{key}" for key in large]
    async with (
        unread(served, paths, 30) as (statuses, grown),
        httpx.AsyncClient(base_url=served.url, timeout=patience(30)) as client,
    ):
        small = await client.put("/v1/collections/docs/documents/small", json={"text": "x" * 10_000})
    assert small.status_code == 201
    assert set(statuses) == {200, 503}
    assert grown.bytes < 3 * HELD


@pytest.fixture(scope="module")
async def large_events(served: Served, client: Client) -> list[str]:
    """Shapes with one event of 6 MB each, and the position before them all, as queries of `/v1/sync/log`."""
    stores = Stores.of(client, Settings(database=served.collection.database.name))
    log = await stores.logs.require()
    before = await stores.events.head(log.id)
    for number in range(1, 9):
        seq, key = Seq(before + number), IdText(f"event{number}")
        fields = {"seq": seq, "collection": "docs", "id": key, "op": "create", "base": 0, "version": 1}
        body = json.dumps(fields | {"doc": {"text": "x" * 6_000_000}, "at": "2026-01-01T00:00:00.000Z"}).encode()
        event = StoredEvent(seq, "docs", key, body)
        await stores.events.append(log.id, [NewEvent(event, 1, f"82{seq:08X}", Timestamp(seq, 1))])
    async with within(60):
        while seq_of(await head(served.url)) < before + 8:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return [f"shape=docs/event{number}&position={log.id}:{before}" for number in range(1, 9)]


async def test_pages_of_the_log_that_are_not_read_are_bounded_together(served: Served, large_events: list[str]) -> None:
    async with unread(served, [f"/v1/sync/log?{query}" for query in large_events], 64) as (statuses, grown):
        assert set(statuses) == {200, 503}
        assert grown.bytes < 3 * HELD


async def test_keyed_writes_of_large_documents_leave_little(served: Served, large: list[str], client: Client) -> None:
    log = client[f"{served.collection.database.name}_eventsync"]
    headers = {"Content-Type": "application/merge-patch+json"}
    async with httpx.AsyncClient(base_url=served.url, timeout=patience(60)) as api:
        for number in range(5):
            answer = await api.patch(
                f"/v1/collections/docs/documents/{large[0]}",
                content=json.dumps({"n": number}),
                headers=headers | {"Idempotency-Key": f"key{number}", "Prefer": "return=minimal"},
            )
            assert answer.status_code == 200, answer.text
        operations = [{"method": "PATCH", "collection": "docs", "id": text, "patch": {"m": 1}} for text in large]
        for some, status in ((operations[:3], 200), (operations, 413)):
            answer = await insisted(
                api,
                "/v1/transactions",
                content=json.dumps({"operations": some}),
                headers={"Content-Type": "application/json", "Idempotency-Key": f"all{status}"},
            )
            assert answer.status_code == status, answer.text
    stats = await log.command("collStats", "operations")
    assert stats["count"] == 6
    assert stats["size"] < 6 * 500


# --- help -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connection(url: str, limit: int = 2**16) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port, limit=limit)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def insisted(api: httpx.AsyncClient, path: str, **options: Any) -> httpx.Response:
    """The answer to a request under a key, asked for again where MongoDB was too slow to say what became of it."""
    while (answer := await api.post(path, **options)).status_code == 503:
        continue
    return answer


async def sent(url: str, blocks: Iterator[bytes]) -> bytes:
    """Send all of it, or until the server ends the connection; returns what it answers."""
    async with connection(url) as (reader, writer):
        answer = asyncio.ensure_future(drained(reader))
        for block in blocks:
            # The connection may be gone before the reader is: uvloop refuses to write to it.
            if answer.done() or writer.transport.is_closing():
                break
            writer.write(block)
            await drained_by(writer)
        async with within(60):
            return await answer


async def taken(served: Served, writer: asyncio.StreamWriter) -> None:
    """Wait until the server has taken all, has ended the connection, or takes nothing for many turns of its loop."""
    async with httpx.AsyncClient(base_url=served.url, timeout=patience(30)) as client:
        left = -1
        while not writer.transport.is_closing() and left != (left := writer.transport.get_write_buffer_size()):
            for _ in range(50):
                (await client.get("/healthz")).raise_for_status()


async def drained_by(writer: asyncio.StreamWriter) -> None:
    try:
        await writer.drain()
    except ConnectionError:
        return


async def drained(reader: asyncio.StreamReader) -> bytes:
    """The beginning of what comes until the end, however that comes."""
    found = b""
    try:
        while block := await reader.read(2**16):
            found = (found + block)[: 2**16]
    except ConnectionError:
        pass
    return found
