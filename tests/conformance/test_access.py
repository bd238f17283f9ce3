"""Rules and tokens, with real clients of every make on all transports, straight to the server and through nginx."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from conformance.declared import REFETCHED, event_sources, everybody, streams, told
from eventsync.access.authenticator import Clock
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.access.revocations import of_subject
from eventsync.stores.stores import Stores
from support import nginx
from support.identity import token
from support.nginx import documented, running_nginx
from support.peers.chromium import Chromium
from support.peers.makes import MAKES, PACKAGE, of_transport
from support.peers.peer import Peer
from support.peers.talk import Copy, talking
from support.ruled import EVERYTHING, MERGE, Ruled, apply_rules, ruled_system
from support.systems import running_worker, serving, tracked
from support.tcp_proxy import tcp_proxy
from support.tls import certificate
from support.waiting import STREAM_WAIT, eventually, patience, scaled

NOTES: Final = "/v1/collections/notes/documents"
LONG: Final = "x" * 200
"""Text that makes a patch shorter than its document."""
NOT_YET: Final = 9.0
"""Seconds since the end of a token that is still accepted: clocks may differ by 10 s."""


def credential(sub: str, *, ends_in: float = 3600.0, **claims: Any) -> str:
    now = time.time()
    return token(now=now, sub=sub, exp=int(now + ends_in), **claims)


RULES: Final[dict[str, Any]] = {
    "roles": {"user": True, "operator": {"roles": "ops"}},
    "collections": {
        "*": {"operator": EVERYTHING},
        "notes": {
            "user": {"read": {"$or": [{"owner": "$claims.sub"}, {"readers": "$claims.sub"}]}, "hide": ["margin"]}
        },
    },
}


@pytest.fixture(scope="module")
async def guarded(mongodb_uri: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ruled]:
    settings = Settings(
        mongodb_uri=mongodb_uri,
        database=f"guarded_{secrets.token_hex(6)}",
        collections=("notes",),
        checkpoint_interval=0.25,
        stream_wait=0.25,
        auth_grace=0.5,
        # Short, so that a silent end of a token is seen soon.
        heartbeat=scaled(0.5),
    )
    async with ruled_system(settings, tmp_path_factory.mktemp("secret"), RULES) as system:
        yield system
    await client.drop_database(settings.database)
    await client.drop_database(settings.log_db)


@pytest.fixture(scope="module")
async def guarded_proxy(guarded: Ruled, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    if reason := nginx.missing():
        pytest.skip(reason)
    async with running_nginx(tmp_path_factory.mktemp("nginx"), guarded.url, documented()) as running:
        yield running.url


@pytest.fixture(params=["direct", pytest.param("nginx", marks=pytest.mark.slow)])
def guarded_door(request: pytest.FixtureRequest, guarded: Ruled) -> str:
    return guarded.url if request.param == "direct" else str(request.getfixturevalue("guarded_proxy"))


@everybody
async def test_client_follows_its_part_and_resumes_in_it(
    peer: Peer, guarded_door: str, guarded: Ruled, key: str
) -> None:
    """A grant shows what enters and leaves it, without what is hidden, and so for one who was away."""
    copy = Copy("notes", token=credential(key))
    async with guarded.client("olga", roles=["ops"]) as writer:

        async def change(id_: str, **fields: Any) -> None:
            (await writer.patch(f"{NOTES}/{id_}", json=fields, headers=MERGE)).raise_for_status()

        await writer.put(f"{NOTES}/{key}", json={"owner": "another", "margin": 5, "text": LONG})
        async with talking(peer, guarded_door, copy) as talk:
            await talk.live()
            assert copy.only.documents == {}
            await change(key, n=1)
            await change(key, owner=key)
            await change(key, margin=6)
            await change(key, owner="another", readers=["x", key])
            await change(key, readers=["x"])
            await writer.put(f"{NOTES}/{key}-end", json={"owner": key})
            await talk.has("notes", f"{key}-end")
        whole = {"_id": key, "n": 1, "owner": key, "text": LONG}
        assert told(talk)[:-1] == [
            {"id": key, "op": "create", "enter": True, "base": 2, "version": 3, "doc": whole},
            {"id": key, "op": "update", "base": 3, "version": 4, "patch": []},
            {
                "id": key, "op": "update", "base": 4, "version": 5,
                "patch": [
                    {"op": "replace", "path": "/owner", "value": "another"},
                    {"op": "add", "path": "/readers", "value": ["x", key]},
                ],
            },
            {"id": key, "op": "delete", "leave": True, "base": 5, "version": 6},
        ]  # fmt: skip

        await change(key, owner=key)
        await change(f"{key}-end", owner="another")
        await writer.put(f"{NOTES}/{key}-last", json={"owner": key, "margin": 1})
        copy.token = credential(key)  # a new one for the same subject
        async with talking(peer, guarded_door, copy) as talk:
            await talk.has("notes", f"{key}-last")
    assert not REFETCHED & {*talk.kinds}
    assert [(event["id"], event["op"]) for event in told(talk)] == [
        (key, "create"), (f"{key}-end", "delete"), (f"{key}-last", "create"),
    ]  # fmt: skip
    assert copy.only.documents == {
        key: whole | {"readers": ["x"]},
        f"{key}-last": {"_id": f"{key}-last", "owner": key},
    }


REFUSED: Final = {
    "token_missing": None,
    "token_invalid": credential("ada").rpartition(".")[0] + ".c2lnbmF0dXJl",
    "token_expired": credential("ada", ends_in=-60),
}
"""Reason → a credential that is refused for it."""


@everybody
@pytest.mark.parametrize("reason", REFUSED)
async def test_client_without_a_good_token_is_refused(
    peer: Peer, guarded_door: str, guarded: Ruled, reason: str
) -> None:
    """WebSocket: 4401 with the reason word; all else: 401, which no client repeats unchanged."""
    async with talking(peer, guarded_door, Copy("notes", token=REFUSED[reason])) as talk:
        ended = await talk.over()
    assert talk.seen == []
    if peer.transport == "websocket":
        assert (ended.code, ended.reason) == (4401, reason)
        return
    # Chromium's EventSource does not say why.
    assert ended.code in ({401, None} if peer.name == "chromium-eventsource" else {401})
    assert ended.reason != "lost"
    if peer.transport == "http":
        assert reason in ended.reason


@streams
async def test_client_gets_nothing_after_its_token_has_ended(
    peer: Peer, guarded_door: str, guarded: Ruled, key: str
) -> None:
    """`welcome` and `progress` announce the end. A WebSocket is closed by 4401 after its grace; a stream ends."""
    lasts = scaled(3.0)
    copy = Copy("notes", token=credential(key, ends_in=lasts - NOT_YET))
    async with guarded.client("olga", roles=["ops"]) as writer, talking(peer, guarded_door, copy) as talk:
        await talk.live()
        await talk.until(lambda message: message["type"] == "progress")
        for kind in ("welcome", "progress"):
            told_of_end = next(message for message in talk.seen if message["type"] == kind)
            assert told_of_end["token_expires_in"] <= lasts, kind
        ended = await talk.over()
        copy.disconnected()
        await writer.put(f"{NOTES}/{key}-late", json={"owner": key})
        if ended.reason == "lost":  # an EventSource asks again by itself, and is refused for good
            ended = await talk.over()
    if peer.transport == "websocket":
        assert (ended.code, ended.reason) == (4401, "token_expired")
    assert copy.only.documents == {}


@pytest.mark.parametrize("peer", of_transport("websocket"), indirect=True)
async def test_refreshed_connection_misses_and_repeats_nothing(
    peer: Peer, guarded_door: str, guarded: Ruled, key: str
) -> None:
    copy = Copy("notes", token=credential(key, ends_in=scaled(4.0) - NOT_YET))
    async with guarded.client("olga", roles=["ops"]) as writer, talking(peer, guarded_door, copy) as talk:
        await talk.live()
        await writer.put(f"{NOTES}/{key}-before", json={"owner": key})
        await talk.has("notes", f"{key}-before")
        await talk.say(type="auth", token=credential(key))
        answer = await talk.until(lambda message: message["type"] == "authenticated")
        assert 3500 < answer["expires_in"] <= 3600
        await writer.put(f"{NOTES}/{key}-after", json={"owner": key})
        await talk.has("notes", f"{key}-after")
        await talk.say(type="auth", token=credential("another"))
        ended = await talk.over()
    assert (ended.code, ended.reason) == (4403, "subject_changed")
    assert [event["id"] for event in talk.events] == [f"{key}-before", f"{key}-after"]
    assert talk.kinds.count("snapshot") == 1
    assert "reset" not in talk.kinds


@streams
async def test_revocation_ends_connections(peer: Peer, guarded_door: str, guarded: Ruled, key: str) -> None:
    copy = Copy("notes", token=credential(key))
    async with talking(peer, guarded_door, copy) as talk:
        await talk.live()
        await guarded.stores.credentials.revocations.add(of_subject(key), 60)
        ended = await talk.over(seconds=5)
        if ended.reason == "lost":
            copy.disconnected()
            ended = await talk.over()
    assert ended.reason != "lost"
    if peer.transport == "websocket":
        assert (ended.code, ended.reason) == (4401, "token_revoked")


@pytest.fixture
async def unactivated(mongodb_uri: str, client: Client, tmp_path: Path) -> AsyncIterator[Ruled]:
    """A server with rules that no worker has activated."""
    name = f"closed_{secrets.token_hex(6)}"
    settings = Settings(mongodb_uri=mongodb_uri, database=name, collections=("notes",), stream_wait=STREAM_WAIT)
    stores = Stores.of(client, settings)
    async with serving(settings) as server:
        system = Ruled([server], settings, stores, tmp_path, Clock())
        async with running_worker(settings):
            await tracked(server.url, settings.collections)
        await apply_rules(stores, tmp_path, RULES)

        async def has_rules() -> bool:
            return (await nobody.get("/v1/collections")).status_code == 401

        async with system.bearing() as nobody:
            await eventually(has_rules, 20)
        yield system
    await client.drop_database(settings.database)
    await client.drop_database(settings.log_db)


# A system of its own for each: the package's retries have other tests.
@pytest.mark.slow
@pytest.mark.parametrize("peer", [name for name in MAKES if name not in PACKAGE], indirect=True)
async def test_client_is_refused_retryably_until_its_rules_are_active(peer: Peer, unactivated: Ruled, key: str) -> None:
    """Closed while in doubt, but no client gives up: `unavailable` with a time, and then its part."""
    copy = Copy("notes", token=credential(key))
    await unactivated.stores.data["notes"].insert_many([{"_id": key, "owner": key}, {"_id": "x", "owner": "another"}])
    async with talking(peer, unactivated.url, copy) as talk:
        if peer.transport == "http":
            assert (await talk.over()).code == 503
        else:
            error = await talk.until(lambda message: message["type"] == "error")
            assert error["code"] == "unavailable"
            assert error["retry_after"] > 0
        assert not REFETCHED & {*talk.kinds}
    headers = {"Authorization": f"Bearer {credential(key)}"}
    async with (
        running_worker(unactivated.settings),
        httpx.AsyncClient(base_url=unactivated.url, headers=headers, timeout=patience(20)) as asking,
    ):

        async def is_served() -> bool:
            return (await asking.get("/v1/sync/snapshot", params={"shape": "notes"})).status_code == 200

        await eventually(is_served, 20)
        async with talking(peer, unactivated.url, copy) as talk:
            await talk.has("notes", key)
    assert copy.only.documents == {key: {"_id": key, "owner": key}}


@event_sources
async def test_event_source_comes_back_with_its_ticket(peer: Peer, guarded: Ruled, key: str) -> None:
    """A lost connection is resumed by the browser itself, with the same ticket and its last id."""
    copy = Copy("notes", token=credential(key))
    async with (
        guarded.client("olga", roles=["ops"]) as writer,
        tcp_proxy(guarded.url) as proxy,
        talking(peer, proxy.url, copy) as talk,
    ):
        await talk.live()
        proxy.cut()
        ended = await talk.over()
        assert ended.reason == "lost"
        copy.disconnected()
        await writer.put(f"{NOTES}/{key}", json={"owner": key})
        await talk.has("notes", key)
    assert [event["id"] for event in talk.events] == [key]
    assert talk.kinds.count("snapshot") == 1


@pytest.fixture(scope="module")
async def by_tls(guarded: Ruled, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The documented nginx, with TLS."""
    if reason := nginx.missing():
        pytest.skip(reason)
    own = certificate(tmp_path_factory.mktemp("certificate"))
    async with running_nginx(tmp_path_factory.mktemp("tls"), guarded.url, documented(), certificate=own) as running:
        yield running.url


async def test_cookie_by_tls_is_for_this_host_and_no_script(by_tls: str, guarded: Ruled, key: str) -> None:
    headers = {"Authorization": f"Bearer {credential(key)}"}
    async with httpx.AsyncClient(base_url=by_tls, verify=False, timeout=patience(20)) as client:  # noqa: S501 - our own
        begun = await client.post("/v1/session", headers=headers)
        pair, *attributes = begun.headers["set-cookie"].split("; ")
        assert pair.startswith("__Host-eventsync=ey")
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Secure"} < set(attributes)
        # A browser refuses `__Host-` with a domain.
        assert not [each for each in attributes if each.lower().startswith("domain")]
        client.cookies.clear()
        for cookie, origin, status in (
            (pair, by_tls, 200),
            (pair, by_tls.replace("https", "http"), 403),
            (pair.replace("__Host-", ""), by_tls, 401),
        ):
            answer = await client.get("/v1/collections", headers={"Cookie": cookie, "Origin": origin})
            assert answer.status_code == status, (cookie[:20], origin)
        ended = await client.delete("/v1/session", headers={"Cookie": pair, "Origin": by_tls})
        assert ended.headers["set-cookie"].startswith('__Host-eventsync=""; ')
        assert {"HttpOnly", "Secure", "Max-Age=0", "Path=/"} < set(ended.headers["set-cookie"].split("; "))


@pytest.fixture(params=["direct", "by_tls"])
def own_origin(request: pytest.FixtureRequest, guarded: Ruled) -> str:
    """The URL of the server, or that of the nginx before it."""
    return guarded.url if request.param == "direct" else str(request.getfixturevalue("by_tls"))


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["chromium-websocket", "chromium-eventsource"], indirect=True)
async def test_browser_follows_by_the_cookie_of_a_session(
    peer: Peer, chromium: Chromium, guarded: Ruled, key: str, own_origin: str
) -> None:
    """A page of the server's origin that has signed in needs no token in its script; signed out, it is refused."""
    url = own_origin
    page = await chromium.visit(f"{url}/healthz")
    headers = f"{{headers: {{Authorization: 'Bearer {credential(key)}'}}, method: 'POST'}}"
    await chromium.until(
        page, f"(globalThis.got ??= fetch('/v1/session', {headers}).then((it) => state = it.status), true)"
    )
    await chromium.until(page, "globalThis.state === 200 && document.cookie === ''")
    copy = Copy("notes")
    async with guarded.client("olga", roles=["ops"]) as writer, talking(peer, url, copy) as talk:
        await talk.live()
        await writer.put(f"{NOTES}/{key}", json={"owner": key})
        await talk.has("notes", key)
    await chromium.until(
        page, "(globalThis.out ??= fetch('/v1/session', {method: 'DELETE'}).then((it) => state = it.status), true)"
    )
    await chromium.until(page, "globalThis.state === 204")
    async with talking(peer, url, Copy("notes")) as talk:
        ended = await talk.over()
    assert talk.seen == []
    assert ended.reason != "lost"
