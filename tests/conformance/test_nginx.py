"""A real nginx in front: with only `proxy_pass`, and as docs/guides/nginx.md has it."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from eventsync.main import make_server
from eventsync.settings import Settings
from support import nginx
from support.nginx import DEFAULTS, Nginx, documented, running_nginx
from support.peers.makes import PACKAGE, of_transport
from support.peers.peer import Peer
from support.peers.served import COLLECTIONS, Served
from support.peers.talk import Copy, Talk, talking
from support.replica import seq_of
from support.systems import head, running_server, tracked
from support.tcp_proxy import tcp_proxy
from support.waiting import patience, scaled, within

pytestmark = pytest.mark.skipif(nginx.missing() is not None, reason=nginx.missing() or "")

TIMELY = 2.0
"""Seconds within which what nothing buffers arrives."""


@pytest.fixture(scope="module")
async def bare(served: Served, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nginx]:
    """nginx with its defaults: HTTP/1.0 to the server, buffering, no upgrade."""
    async with running_nginx(tmp_path_factory.mktemp("bare"), served.url, DEFAULTS) as running:
        yield running


@pytest.mark.parametrize("peer", of_transport("sse", "http"), indirect=True)
async def test_default_nginx_serves_sse_and_http(
    peer: Peer, bare: Nginx, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    copy = Copy("orders")
    async with talking(peer, bare.url, copy) as talk:
        await talk.live()
        for number in range(3):
            await api.put(f"/orders/documents/{key}-{number}", json={})
            await talk.has("orders", f"{key}-{number}", seconds=TIMELY)
    assert copy.only.documents == await served.rows("orders")


@pytest.fixture(scope="module")
async def compressing(served: Served, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nginx]:
    """nginx that compresses what it passes on, and so makes each entity tag a weak one."""
    gzip = "gzip on; gzip_types application/json; gzip_proxied any; gzip_min_length 0;\n    location / {"
    block = DEFAULTS.replace("location / {", gzip)
    async with running_nginx(tmp_path_factory.mktemp("gzip"), served.url, block) as running:
        yield running


async def test_conditional_requests_work_behind_a_compressing_proxy(
    compressing: Nginx, api: httpx.AsyncClient, key: str
) -> None:
    path = f"/v1/collections/orders/documents/{key}"
    made = await api.put(f"/orders/documents/{key}", json={"n": 0, "text": "x" * 1000})
    async with httpx.AsyncClient(
        base_url=compressing.url, headers={"accept-encoding": "gzip"}, timeout=patience(20)
    ) as client:
        read = await client.get(path)
        assert read.headers["content-encoding"] == "gzip"
        tag = read.headers["etag"]
        assert tag == f"W/{made.headers['etag']}"
        assert (await client.get(path, headers={"if-none-match": tag})).status_code == 304
        assert (await client.get(path, headers={"if-match": tag})).status_code == 200
        for number, method in enumerate(("PUT", "PATCH", "DELETE")):
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            headers = {"if-match": tag, "content-type": kind}
            body: dict[str, Any] = {} if method == "DELETE" else {"json": {"n": number + 1, "text": "y" * 1000}}
            done = await client.request(method, path, headers=headers, **body)
            assert done.status_code == 200, done.text
            if method != "DELETE":
                again = await client.request(method, path, headers=headers, **body)
                assert (again.status_code, again.json()["code"]) == (412, "version_mismatch")
                tag = (await client.get(path)).headers["etag"]
                assert tag.startswith("W/")


_ODD = ("a/b", "a//b", "..", "x/../y", "%2F", "a b+c?d#e", "é", 'ejson:{"$ref":"x","$id":"y/z"}', 'ejson:"a\\u0000b"')


@pytest.mark.parametrize("odd", _ODD)
async def test_odd_ids_work_behind_the_documented_nginx(proxy: Nginx, served: Served, key: str, odd: str) -> None:
    """nginx rewrites a path only where `proxy_pass` has one of its own, and the documented one has none."""
    text = odd.replace("x", key) if odd.startswith("ejson:{") else f"{odd}{key}" if "ejson" not in odd else odd
    address = f"/v1/collections/orders/documents/{quote(text, safe='')}"
    async with (
        httpx.AsyncClient(base_url=proxy.url, timeout=patience(20)) as through,
        httpx.AsyncClient(base_url=served.url, timeout=patience(20)) as straight,
    ):
        made = await through.put(address, json={"n": 1})
        assert made.status_code in {200, 201}, made.text
        canonical = made.json()["id"]
        assert (await straight.get(address)).json()["id"] == canonical
        shape = f"orders/{canonical}"
        head, *_ = (await through.get("/v1/sync/snapshot", params={"shape": shape})).text.splitlines()
        assert json.loads(head)["shape"] == shape
        assert (await through.delete(address)).status_code == 200


@pytest.mark.parametrize("peer", of_transport("websocket"), indirect=True)
async def test_default_nginx_refuses_websockets_cleanly(peer: Peer, bare: Nginx) -> None:
    async with talking(peer, bare.url, Copy("orders")) as talk:
        ended = await talk.over()
    # A script only learns that there is no connection; the others see the status.
    if peer.name in PACKAGE:
        assert (ended.code, ended.reason.endswith("HTTP 426")) == (None, True)
        return
    assert ended.code == (426 if peer.name == "websockets" else 1006)


async def test_refused_upgrade_says_why(bare: Nginx) -> None:
    async with httpx.AsyncClient(base_url=bare.url, timeout=patience(20)) as client:
        answer = await client.get("/v1/sync", headers={"connection": "upgrade", "upgrade": "websocket"})
    assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")
    assert "proxy" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/sync/sse?shape=orders", "/v1/sync/snapshot?shape=orders"])
async def test_streams_disable_buffering(served: Served, path: str) -> None:
    async with (
        httpx.AsyncClient(base_url=served.url, timeout=patience(20)) as client,
        client.stream("GET", path) as answer,
    ):
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-store"


async def beaten(talk: Talk, times: int) -> None:
    beats = itertools.count(1)
    await talk.until(lambda message: message["type"] == "progress" and next(beats) == times)


@pytest.mark.slow
async def test_heartbeats_keep_streams_through_idle_timeouts(
    peers: dict[str, Peer], served: Served, tmp_path_factory: pytest.TempPathFactory, api: httpx.AsyncClient, key: str
) -> None:
    """SSE needs no comments: `progress` comes each heartbeat, and nginx counts the seconds between two reads."""
    heartbeat = served.settings.heartbeat
    # Several, because a busy machine delays each. It may be busier by now than when the heartbeat was chosen.
    idle = math.ceil(max(4 * heartbeat, scaled(2.0)))
    longer = math.ceil(1.5 * idle / heartbeat)
    block, changed = re.subn(r"proxy_read_timeout \w+;", f"proxy_read_timeout {idle}s;", documented())
    assert changed == 1
    quiet = f"orders/{key}"
    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(running_nginx(tmp_path_factory.mktemp("idle"), served.url, block))
        streams = [peer for peer in peers.values() if peer.transport != "http"]
        talks = [await stack.enter_async_context(talking(peer, door.url, Copy(quiet))) for peer in streams]
        for talk in talks:
            await talk.live()
        async with asyncio.TaskGroup() as group:
            for talk in talks:
                group.create_task(beaten(talk, longer), name="idle")
        await api.put(f"/orders/documents/{key}", json={})
        for talk in talks:
            await talk.has(quiet, key)
            assert talk.kinds.count("welcome") == 1


async def test_nginx_closes_idle_upstream_connections_first(served: Served) -> None:
    """A request that crosses the server's own close would be lost, and a write is never repeated."""
    seconds = int(re.findall(r"^    keepalive_timeout (\d+)s;", documented(), re.MULTILINE)[0])
    assert seconds < make_server(served.settings).config.timeout_keep_alive


async def test_nginx_keeps_upstream_connections_alive(served: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    async with (
        tcp_proxy(served.url) as wire,
        running_nginx(tmp_path_factory.mktemp("kept"), wire.url, documented()) as door,
        httpx.AsyncClient(base_url=door.url, timeout=patience(20)) as client,
    ):
        for _ in range(5):
            assert (await client.get("/v1/collections")).status_code == 200
        assert wire.cut() == 1


async def history(served: Served, key: str, count: int) -> tuple[str, str]:
    """So many events behind each other: the positions before and after them."""
    orders = served.collection("orders")
    await served.seq("orders", f"{key}-first")
    start = await head(served.url)
    await orders.insert_many([{"_id": f"{key}-{number}", "n": number, "text": "x" * 60} for number in range(count)])
    log = start.partition(":")[0]
    end = f"{log}:{await served.seq('orders', f'{key}-last')}"
    await orders.delete_many({"_id": {"$regex": f"^{key}"}})
    return start, end


async def caught_up(client: httpx.AsyncClient, start: str, end: str) -> list[bytes]:
    """The pages from one position to the other, asked for as a client does that is far behind."""
    position, pages = start, list[bytes]()
    while seq_of(position) < seq_of(end):
        query: dict[str, str | int] = {"shape": "orders", "position": position, "limit": 500}
        answer = await client.get("/v1/sync/log", params=query)
        assert answer.status_code == 200, answer.text
        pages.append(answer.content)
        position = answer.json()["to"]
    return pages


@pytest.mark.slow
async def test_nginx_requests_each_page_once_for_many_clients(served: Served, key: str, tmp_path: Path) -> None:
    """ "A full page of the past never changes: immutable, cacheable by any CDN"."""
    start, end = await history(served, key, 3000)
    # On a busy machine the server may take longer for a page than the documented 1 s that others wait for it.
    waited = f"proxy_cache_lock_timeout {math.ceil(patience(2))}s;"
    block, changed = re.subn(r"proxy_cache_lock_timeout \w+;", waited, documented())
    assert changed
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(running_nginx(tmp_path, served.url, block))
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=proxy.url, timeout=patience(20)))
            for _ in range(20)
        ]
        crowd = await asyncio.gather(*(caught_up(client, start, end) for client in clients))
    full = [page for page in crowd[0] if b'"live":false' in page]
    assert len(full) > 10
    assert all(pages[: len(full)] == full for pages in crowd)
    asked = [
        request for request in proxy.requests() if start.partition(":")[0] in request.uri and "limit=500" in request.uri
    ]
    by_uri: dict[str, list[str]] = {}
    for request in asked:
        by_uri.setdefault(request.uri, []).append(request.cache)
    cached = [states for states in by_uri.values() if "HIT" in states]
    assert len(cached) >= len(full)
    for states in cached:
        assert [state for state in states if state != "HIT"] == ["MISS"]


async def test_full_pages_are_the_same_on_each_server(served: Served, key: str) -> None:
    """One with the events in its window, one that has just begun, one with another window: byte for byte."""
    start, end = await history(served, key, 1000)
    other: Settings = served.settings.model_copy(update={"window_bytes": 16 * 1024 * 1024})
    async with running_server(served.settings) as second, running_server(other) as third:
        found = []
        for url in (served.url, second, third):
            await tracked(url, COLLECTIONS)
            async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
                found.append([page for page in await caught_up(client, start, end) if b'"live":false' in page])
    assert len(found[0]) > 5
    assert found[0] == found[1] == found[2]


async def test_nginx_does_not_collapse_waiting_polls(
    proxy: Nginx, served: Served, api: httpx.AsyncClient, key: str
) -> None:
    """Polls at the same position are not collapsed: each is answered at once."""
    position = f"{(await head(served.url)).partition(':')[0]}:{await served.seq('orders', key)}"
    query: dict[str, str | int] = {"shape": f"orders/{key}-new", "position": position, "wait": 60}
    async with httpx.AsyncClient(base_url=proxy.url, timeout=patience(20)) as client, asyncio.TaskGroup() as group:
        polls = [group.create_task(client.get("/v1/sync/log", params=query), name=f"poll {n}") for n in range(10)]
        done, _ = await asyncio.wait(polls, timeout=0.5)
        assert not done
        await api.put(f"/orders/documents/{key}-new", json={})
        async with within(TIMELY):
            await asyncio.wait(polls)
    assert {len(poll.result().json()["events"]) for poll in polls} == {1}
