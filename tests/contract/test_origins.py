"""`Host`, `Origin` and CORS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.typing import Origin, Subprotocol

from eventsync.domain.protocol import SUBPROTOCOL
from support.peers.python import connect
from support.systems import running_server
from support.waiting import patience, within

LISTED = "https://app.example"
COLLECTIONS = "/v1/collections"


async def raw(url: str, *lines: str, target: str = COLLECTIONS, version: str = "1.1") -> tuple[int, str, bytes]:
    """Status, head and body of the answer to a request with these header lines and no others."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    head = "\r\n".join([f"GET {target} HTTP/{version}", *lines, "Connection: close", "", ""])
    writer.write(head.encode("latin-1"))
    async with within(10):
        answer, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    writer.close()
    return int(answer.split()[1]), answer.decode("latin-1").lower(), body


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Host: localhost"], 200),
        (["Host: LOCALHOST:1"], 200),
        (["Host: localhost."], 200),
        (["Host: 127.0.0.1:8000"], 200),
        (["Host: 192.0.2.7"], 200),
        (["Host: [::1]:8000"], 200),
        (["Host: evil.example"], 403),
        (["Host: localhost.evil.example"], 403),
        (["Host: 127.0.0.1.evil.example"], 403),
        (["Host: evil.example", "X-Forwarded-Host: localhost"], 403),
        (["Host: evil.example", "Forwarded: host=localhost"], 403),
        ([], 400),
        (["Host:"], 400),
        (["Host: localhost", "Host: localhost"], 400),
        (["Host: localhost", "Host: evil.example"], 400),
        (["Host: localhost, evil.example"], 400),
        (["Host: user@localhost"], 400),
        (["Host: local host"], 400),
        (["Host: localhost:99999"], 400),
        (["Host: localhost:x"], 400),
        (["Host: localhost/"], 400),
        (["Host: [::1"], 400),
    ],
    ids=str,
)
async def test_allowed_and_refused_hosts(served: Any, lines: list[str], status: int) -> None:
    found, _, body = await raw(served.url, *lines)
    assert found == status, body
    if status != 200:
        assert json.loads(body)["code"] == {400: "malformed", 403: "forbidden"}[status]


@pytest.mark.parametrize(
    ("target", "status"), [("http://evil.example/v1/collections", 403), ("http://localhost/v1/collections", 200)]
)
async def test_host_of_an_absolute_target_takes_precedence(served: Any, target: str, status: int) -> None:
    for host in ("localhost", "evil.example"):
        assert (await raw(served.url, f"Host: {host}", target=target))[0] == status
    assert (await raw(served.url, target=target))[0] == 400
    assert (await raw(served.url, "Host: localhost", target="ftp://localhost/v1/collections"))[0] == 400


async def test_host_names_are_checked_on_each_listening_address(served: Any) -> None:
    settings = served.settings.model_copy(update={"allow_unauthenticated": True})
    listed = settings.model_copy(update={"allowed_hosts": ("Sync.Example",)})
    async with running_server(settings, host="0.0.0.0") as url, running_server(listed, host="0.0.0.0") as other:
        for probe in ("/healthz", "/metrics"):
            assert (await raw(url, "Host: probe.internal", target=probe))[0] == 200
            assert (await raw(url, target=probe, version="1.0"))[0] == 200
        assert (await raw(url, "Host: evil.example:9000", "Origin: http://evil.example:9000"))[0] == 403
        assert (await raw(url, "Host: sync.example"))[0] == 403
        assert (await raw(url, "Host: 10.1.2.3:9000"))[0] != 403
        assert (await raw(other, "Host: sync.example:9000"))[0] != 403
        assert (await raw(other, "Host: evil.example"))[0] == 403


async def test_probes_obey_all_rules_but_that_of_the_name(served: Any) -> None:
    assert (await raw(served.url, "Host: a", "Host: b", target="/healthz"))[0] == 400
    assert (await raw(served.url, "Host: a", "Origin: https://evil.example", target="/metrics"))[0] == 403


@pytest.fixture(scope="module")
async def doors(served: Any) -> AsyncIterator[tuple[str, str]]:
    """Two servers with a name: one that trusts a proxy on this host, and one that trusts another proxy alone."""
    settings = served.settings.model_copy(update={"allowed_hosts": ("sync.example",)})
    other = settings.model_copy(update={"trusted_proxies": ("192.0.2.1",)})
    async with running_server(settings) as trusting, running_server(other) as distrustful:
        yield trusting, distrustful


@pytest.mark.parametrize(
    ("origin", "forwarded", "status"),
    [
        ("http://sync.example", None, 200),
        ("http://sync.example:80", None, 200),
        ("https://sync.example", None, 403),
        ("https://sync.example", "https", 200),
        ("https://sync.example:443", "https", 200),
        ("http://sync.example", "https", 403),
        ("http://sync.example:8080", None, 403),
        ("null", None, 403),
        ("sync.example", None, 403),
        ("ftp://sync.example", None, 403),
    ],
)
async def test_origins_of_another_scheme_are_refused(
    doors: tuple[str, str], origin: str, forwarded: str | None, status: int
) -> None:
    lines = ["Host: sync.example", f"Origin: {origin}"]
    told = [f"X-Forwarded-Proto: {forwarded}"] if forwarded else []
    trusting, distrustful = doors
    assert (await raw(trusting, *lines, *told))[0] == status
    # From anybody else it says nothing.
    own = origin.startswith("http://sync.example") and not origin.endswith("8080")
    assert (await raw(distrustful, *lines, *told))[0] == (200 if own else 403)


async def test_two_origins_are_refused(served: Any) -> None:
    assert (await raw(served.url, "Host: localhost", f"Origin: {LISTED}", "Origin: https://evil.example"))[0] == 403


async def test_refused_websocket_accepts_with_the_subprotocol(served: Any) -> None:
    async def refused(opened: ClientConnection) -> tuple[int | None, str | None]:
        assert opened.subprotocol == SUBPROTOCOL
        async with within(10):
            await opened.wait_closed()
        return opened.close_code, opened.close_reason

    address = served.url.replace("http", "ws") + "/v1/sync"
    offered = [Subprotocol("other"), Subprotocol(SUBPROTOCOL)]
    async with connect(address, origin=Origin("https://evil.example"), subprotocols=offered) as opened:
        code, reason = await refused(opened)
    assert (code, "EVENTSYNC_ALLOWED_ORIGINS" in (reason or "") or "evil.example" in (reason or "")) == (4403, True)
    port = urlsplit(served.url).port
    rebound = f"ws://evil.example:{port}/v1/sync"
    async with connect(rebound, host="127.0.0.1", port=port, proxy=None, subprotocols=offered) as opened:
        assert (await refused(opened))[0] == 4403


async def preflight(root: httpx.AsyncClient, origin: str, *headers: str) -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": "PATCH"}
    return await root.options(COLLECTIONS, headers=asked | {"access-control-request-headers": ", ".join(headers)})


async def test_preflight_responses(root: httpx.AsyncClient) -> None:
    wanted = (
        "authorization",
        "content-type",
        "if-match",
        "if-none-match",
        "idempotency-key",
        "prefer",
        "last-event-id",
    )
    answer = await preflight(root, LISTED, *wanted)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == LISTED
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert set(wanted) <= {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    assert int(answer.headers["access-control-max-age"]) >= 600
    assert "origin" in answer.headers["vary"].lower()
    assert (await preflight(root, "https://evil.example")).status_code == 403


async def test_page_of_a_listed_origin_reads_responses_with_credentials(
    root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    for answer in (
        await api.put(f"/{new_id()}", json={}, headers={"origin": LISTED}),
        await api.get("/nothing", headers={"origin": LISTED}),
        await root.get("/v1/sync/sse?shape=$", headers={"origin": LISTED}),
    ):
        assert answer.headers["access-control-allow-origin"] == LISTED
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert {"ETag", "Location", "Retry-After"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    # A shared cache must not give a listed page what it has kept of others.
    assert "origin" in (await root.get("/v1/sync/log?shape=a")).headers["vary"].lower()


async def test_wildcard_never_allows_credentials(served: Any) -> None:
    anybody = served.settings.model_copy(update={"allowed_origins": ("*", LISTED)})
    async with running_server(anybody) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        cookie = {"cookie": "a=b", "origin": "https://other.example"}
        for answer in (await client.get(COLLECTIONS, headers=cookie), await preflight(client, "https://other.example")):
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers
        answer = await client.get(COLLECTIONS, headers={"origin": LISTED})
        assert answer.headers["access-control-allow-origin"] == LISTED
        assert answer.headers["access-control-allow-credentials"] == "true"


ANSWERS: list[tuple[str, list[str], int]] = [
    ("/", ["Host: localhost"], 200),
    ("/assets/app.js", ["Host: localhost"], 200),
    ("/assets/nothing", ["Host: localhost"], 404),
    (COLLECTIONS, ["Host: localhost"], 200),
    ("/v1/collections/$/documents", ["Host: localhost"], 400),
    ("/%ff", ["Host: localhost"], 400),
    ("/healthz", ["Host: localhost"], 200),
    ("/v1/sync", ["Host: localhost"], 426),
    ("/v1/sync/snapshot?shape=others", ["Host: localhost"], 200),
    (COLLECTIONS, ["Host: evil.example"], 403),
    (COLLECTIONS, [], 400),
    (COLLECTIONS, ["Host: localhost", "no colon"], 400),
    (COLLECTIONS, ["Host: localhost", "X: " + "x" * 200_000], 431),
]


@pytest.mark.parametrize(("target", "lines", "status"), ANSWERS, ids=[f"{a} {c}" for a, _, c in ANSWERS])
async def test_each_response_has_nosniff_headers(served: Any, target: str, lines: list[str], status: int) -> None:
    found, head, _ = await raw(served.url, *lines, target=target)
    assert found == status
    assert head.count("\r\nx-content-type-options: nosniff") == 1
    assert head.count("\r\ncross-origin-resource-policy: same-origin") == 1


async def test_stream_has_nosniff_headers(root: httpx.AsyncClient) -> None:
    async with root.stream("GET", "/v1/sync/sse?shape=others") as answer:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
