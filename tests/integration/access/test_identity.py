"""Identity on running servers: credentials, their end on live connections, refresh and revocation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.access.authenticator import DOUBTED_AFTER
from eventsync.access.tokens import LEEWAY
from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings
from eventsync.stores.access.revocations import of_subject
from support.failpoints import faults
from support.ruled import DOCS, DOCUMENTS, Ruled, apply_rules, event_stream, moved_system, socket
from support.waiting import eventually, patience, within

SETTINGS: dict[str, Any] = {"collections": ("docs",), "heartbeat": 3600.0}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update=SETTINGS)


@pytest.fixture
async def system(settings: Settings, tmp_path: Path) -> AsyncIterator[Ruled]:
    async with moved_system(settings, tmp_path) as found:
        yield found


@pytest.fixture
async def two(settings: Settings, tmp_path: Path) -> AsyncIterator[Ruled]:
    async with moved_system(settings, tmp_path, servers=2) as found:
        yield found


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("reason", answer.json()["code"])


async def test_requests_need_a_credential_and_writes_have_its_subject(system: Ruled) -> None:
    async with system.bearing() as client:
        answer = await client.get("/v1/collections")
        assert refusal(answer) == (401, "token_missing")
        assert answer.headers["www-authenticate"] == "Bearer"
        for header in ("Basic YTpi", "Bearer", "Bearer x y", "bearer x"):
            answer = await client.get("/v1/collections", headers={"Authorization": header})
            assert refusal(answer) == (401, "token_invalid")
            assert (
                answer.headers["www-authenticate"] == 'Bearer error="invalid_token", error_description="token_invalid"'
            )
        assert refusal(await client.get("/v1/sync/sse?shape=docs")) == (401, "token_missing")
        assert (await client.get("/healthz")).status_code == 200
    async with system.bearing(system.token()) as client:
        made = await client.put(f"{DOCUMENTS}/a", json={"n": 1})
        assert made.status_code == 201
        assert (await client.get("/metrics")).status_code == 403
    async with system.bearing(system.token(roles=["ops"])) as client:
        assert (await client.get("/metrics")).status_code == 200
    stored = await system.stores.data["docs"].find_one({"_id": "a"})
    assert stored is not None
    assert stored["_sync"]["by"] == "ada"
    async with system.bearing(system.token(exp=int(system.clock.now()) - 60)) as client:
        assert refusal(await client.get("/v1/collections")) == (401, "token_expired")


async def test_a_websocket_without_a_good_token_is_closed_with_the_reason(system: Ruled) -> None:
    async with socket(system, None) as client:
        assert await client.closed() == (4401, "token_missing")
    async with socket(system, "x") as client:
        assert await client.closed() == (4401, "token_invalid")
    async with socket(system, system.token(exp=int(system.clock.now()) - 60)) as client:
        assert await client.closed() == (4401, "token_expired")


async def test_expiry_silences_a_websocket_and_a_refresh_misses_and_repeats_nothing(system: Ruled) -> None:
    async with socket(system, system.token()) as client:
        await client.until("live")
        client.messages.clear()
        await system.write("one")
        await client.until("events")
        system.advance(3600 + LEEWAY - 1)  # within the leeway
        await system.write("two")
        await client.until("events")
        system.advance(2)
        for name in ("three", "four"):
            await system.write(name)
        # An answer that comes in order proves that nothing else was sent.
        await client.send(type="ping")
        await client.until("pong")
        assert client.ids() == ["one", "two"]
        await client.send(type="auth", token="x")
        assert (await client.until("error"))["reason"] == "token_invalid"
        await client.send(type="auth", token=system.token(exp=int(system.clock.now()) - 60))
        assert (await client.until("error"))["reason"] == "token_expired"
        await client.send(type="auth", token=system.token())
        assert await client.until("authenticated") == {"type": "authenticated", "expires_in": 3600}
        await system.write("five")
        while client.ids()[-1:] != ["five"]:
            await client.until("events")
        assert client.ids() == ["one", "two", "three", "four", "five"]
        assert not [message for message in client.messages if message["type"] in {"reset", "snapshot"}]
        # The new end is obeyed, too.
        system.advance(3600 + LEEWAY)
        await system.write("six")
        await client.send(type="ping")
        await client.until("pong")
        assert client.ids()[-1] == "five"


async def test_a_websocket_that_is_not_refreshed_is_closed_after_its_grace(system: Ruled, settings: Settings) -> None:
    async with socket(system, system.token()) as client:
        await client.until("live")
        system.advance(3600 + LEEWAY + settings.auth_grace - 1)
        await client.send(type="ping")
        await client.until("pong")
        system.advance(1)
        assert await client.closed() == (4401, "token_expired")


async def test_a_refresh_before_the_end_is_noticed_by_nobody(system: Ruled) -> None:
    async with socket(system, system.token(exp=int(system.clock.now()) + 60)) as client:
        await client.until("live")
        await client.send(type="auth", token=system.token())
        assert (await client.until("authenticated"))["expires_in"] == 3600
        system.advance(60 + LEEWAY + 3600 - 200)
        await system.write("one")
        await client.until("events")
        assert [message["type"] for message in client.messages[-2:]] == ["authenticated", "events"]


async def test_another_subject_closes_a_live_connection(system: Ruled) -> None:
    async with socket(system, system.token()) as client:
        await client.until("live")
        await client.send(type="auth", token=system.token(sub="eve"))
        assert await client.closed() == (4403, "subject_changed")


async def test_expiry_ends_an_event_stream(system: Ruled) -> None:
    async with system.bearing(system.token()) as client, event_stream(client) as events, within(20):
        while (await anext(events)).event != "live":
            continue
        await system.write("one")
        assert (await anext(events)).event == "events"
        system.advance(3600 + LEEWAY)
        await system.write("two")
        last = await anext(events)
        assert (last.event, last.json()["code"], last.json()["reason"]) == ("error", "unauthenticated", "token_expired")
        assert [event async for event in events] == []


async def test_welcome_and_progress_say_when_the_token_ends(settings: Settings, tmp_path: Path) -> None:
    often = settings.model_copy(update={"heartbeat": 0.05})
    async with moved_system(often, tmp_path) as system, socket(system, system.token()) as client:
        for kind in ("welcome", "progress"):
            assert (await client.until(kind))["token_expires_in"] == 3600, kind


@pytest.mark.parametrize("of", ["sub", "jti"])
async def test_a_revocation_closes_connections_on_every_server_at_once(two: Ruled, of: str) -> None:
    mine, others = two.token(jti="t-1"), two.token(sub="eve", jti="t-2")
    async with (
        socket(two, mine, 0) as first,
        socket(two, mine, 1) as second,
        socket(two, others, 1) as other,
        two.bearing(mine, 1) as reader,
        event_stream(reader) as events,
        within(30),
    ):
        for client in (first, second, other):
            await client.until("live")
        while (await anext(events)).event != "live":
            continue
        name = of_subject("ada") if of == "sub" else "jti:t-1"
        begin = time.monotonic()
        at = await two.stores.credentials.revocations.add(name, 3600)
        two.advance(max(0.0, at.timestamp() - two.clock.now()), noticed=False)
        ends: list[Any] = list(await asyncio.gather(first.closed(), second.closed()))
        took = time.monotonic() - begin
        assert ends == [(4401, "token_revoked")] * 2
        assert took < patience(1.0)  # the goal is 0.1 s on an idle machine
        # A subject that was revoked may sign in again, and learns when.
        assert ("retry_after" in first.messages[-1]) is (of == "sub")
        assert (await anext(events)).json()["reason"] == "token_revoked"
        for number in range(2):
            async with two.bearing(mine, number) as refused:
                await eventually(partial(_is_refused, refused), 20)
        await two.write("one")
        await other.until("events")


async def _is_refused(client: httpx.AsyncClient) -> bool:
    return (await client.get("/v1/collections")).status_code == httpx.codes.UNAUTHORIZED


async def test_a_revoked_service_key_is_refused_and_its_connections_are_closed(system: Ruled) -> None:
    keys = system.stores.credentials.keys
    key, text = await keys.create("importer", roles=frozenset({"operator"}), claims={}, expires=None)
    async with system.bearing(text) as client:
        assert (await client.get("/metrics")).status_code == 200  # at once, though the feed may not have brought it
        assert (await client.put(f"{DOCUMENTS}/k", json={})).status_code == 201
        async with socket(system, text) as live:
            await live.until("live")
            assert await keys.revoke(key.id)
            await system.stores.credentials.revocations.add(f"key:{key.id}", 3600)
            assert await live.closed() == (4401, "token_revoked")
        assert refusal(await client.get("/v1/collections")) == (401, "token_revoked")
    stored = await system.stores.data["docs"].find_one({"_id": "k"})
    assert stored is not None
    assert stored["_sync"]["by"] == "key:importer"


async def test_a_ticket_opens_an_event_stream_of_its_shapes_alone(system: Ruled) -> None:
    async with system.bearing(system.token()) as client:
        made = await client.post("/v1/tickets", json={"shapes": ["docs"]})
        assert (made.status_code, made.json()["expires_in"]) == (201, 3600)
        assert made.headers["cache-control"] == "no-store"
        ticket = made.json()["ticket"]
        both = await client.get("/v1/sync/sse", params={"shape": "docs", "ticket": ticket})
        assert refusal(both) == (400, "malformed")
    async with system.bearing() as client:
        async with event_stream(client, ticket=ticket) as events, within(20):
            while (await anext(events)).event != "live":
                continue
        for shapes in (["others"], ["docs", "others"], ["docs/a"]):
            answer = await client.get("/v1/sync/sse", params={"shape": shapes, "ticket": ticket})
            assert refusal(answer) == (403, "forbidden")
        for bad in ("", "x", ticket + "x", ticket[:-1], "est_é"):
            answer = await client.get("/v1/sync/sse", params={"shape": "docs", "ticket": bad})
            assert refusal(answer) == (401, "token_invalid")
        # It stands nowhere else.
        assert (await client.get("/v1/collections", params={"ticket": ticket})).status_code in {400, 401}
        headers = {"Authorization": f"Bearer {ticket}"}
        assert refusal(await client.get("/v1/collections", headers=headers)) == (401, "token_invalid")
        system.advance(3600 + LEEWAY)
        answer = await client.get("/v1/sync/sse", params={"shape": "docs", "ticket": ticket})
        assert refusal(answer) == (401, "token_expired")
    assert ticket not in str(await system.stores.log["tickets"].find().to_list())


async def test_a_ticket_is_kept_for_as_long_as_it_is_accepted(system: Ruled) -> None:
    async with system.bearing(system.token()) as client:
        made = await client.post("/v1/tickets", json={"shapes": ["docs"]})
    assert made.status_code == 201
    (stored,) = await system.stores.log["tickets"].find().to_list()
    # MongoDB removes it at its `end`.
    assert stored["end"].replace(tzinfo=UTC).timestamp() > stored["expires"] + 2 * LEEWAY


async def test_tickets_of_a_principal_are_bounded(settings: Settings, tmp_path: Path) -> None:
    few = settings.model_copy(update={"principal_tickets": 2})
    async with moved_system(few, tmp_path) as system, system.bearing(system.token()) as client:
        for status in (201, 201, 429):
            assert (await client.post("/v1/tickets", json={"shapes": ["docs"]})).status_code == status
        async with system.bearing(system.token(sub="eve")) as other:
            assert (await other.post("/v1/tickets", json={"shapes": ["docs"]})).status_code == 201
        system.advance(3600)
        async with system.bearing(system.token()) as later:
            assert (await later.post("/v1/tickets", json={"shapes": ["docs"]})).status_code == 201


async def test_a_cookie_counts_for_requests_of_the_own_origin_alone(system: Ruled) -> None:
    async with system.bearing(system.token()) as client:
        begun = await client.post("/v1/session")
        assert begun.json() == {"sub": "ada", "expires_in": 3600}
    cookie = begun.headers["set-cookie"]
    assert cookie.startswith("eventsync=ey")
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=3610"} <= set(cookie.split("; "))
    name, value = cookie.split(";")[0].split("=", 1)
    own = system.url
    async with system.bearing(Cookie=f"{name}={value}") as client:
        for headers, status in (
            ({"Origin": own}, 200),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Origin": own, "Sec-Fetch-Site": "same-origin"}, 200),
            ({}, 401),
            ({"Sec-Fetch-Site": "same-site"}, 401),
            ({"Sec-Fetch-Site": "cross-site"}, 401),
            ({"Sec-Fetch-Site": "none"}, 401),
            ({"Origin": own, "Sec-Fetch-Site": "cross-site"}, 401),
            ({"Origin": "http://evil.example"}, 403),
        ):
            assert (await client.get("/v1/collections", headers=headers)).status_code == status, headers
        twice = {"Cookie": f"{name}={value}; {name}=x", "Origin": own}
        assert (await client.get("/v1/collections", headers=twice)).status_code == 401
        ended = await client.delete("/v1/session")
        assert (ended.status_code, "Max-Age=0" in ended.headers["set-cookie"]) == (204, True)


async def test_a_cookie_lasts_as_long_as_its_token_is_accepted(system: Ruled) -> None:
    async with system.bearing(system.token()) as client:
        # The token has ended, but for the leeway.
        system.advance(3605)
        begun = await client.post("/v1/session")
        assert begun.json() == {"sub": "ada", "expires_in": 0}
        assert "Max-Age=5" in begun.headers["set-cookie"].split("; ")


async def test_rules_that_are_taken_away_open_a_server_on_loopback(system: Ruled, tmp_path: Path) -> None:
    async with socket(system, system.token()) as client:
        await client.until("live")
        await system.stores.definitions.apply([])
        async with system.bearing() as anonymous:

            async def is_open() -> bool:
                return (await anonymous.get("/v1/collections")).status_code == 200

            await eventually(is_open, 20)
            ticket = await anonymous.post("/v1/tickets", json={"shapes": ["docs"]})
            assert ticket.status_code == 201
            session = await anonymous.post("/v1/session")
            assert (session.json(), "set-cookie" in session.headers) == ({"sub": "anonymous"}, False)
            async with socket(system, None) as other:
                await other.until("live")
                await other.send(type="auth", token="anything")
                assert await other.until("authenticated") == {"type": "authenticated"}
                # What was open closes when rules come back: nobody has said who this is.
                await apply_rules(system.stores, tmp_path)
                assert await other.closed() == (4401, "token_missing")


async def test_an_issuer_that_is_taken_away_closes_its_connections(system: Ruled, tmp_path: Path) -> None:
    async with socket(system, system.token()) as client:
        await client.until("live")
        issuer = {"iss": "backend", "secret_file": str(tmp_path / "secret"), "algorithms": ["HS256"], "aud": "another"}
        await apply_rules(system.stores, tmp_path, DOCS | {"auth": {"issuers": [issuer]}})
        assert await client.closed() == (4401, "token_invalid")


async def test_a_poll_that_waits_past_the_end_of_its_token_gets_no_events(system: Ruled) -> None:
    async with system.bearing(system.token()) as client, socket(system, system.token(sub="eve")) as live, within(30):
        position = (await live.until("live"))["position"]
        waiting = asyncio.create_task(
            client.get("/v1/sync/log", params={"shape": "docs", "position": position, "wait": 20})
        )
        await system.write("zero")
        page = (await waiting).json()
        assert [event["id"] for event in page["events"]] == ["zero"]
        waiting = asyncio.create_task(
            client.get("/v1/sync/log", params={"shape": "docs", "position": page["to"], "wait": 20})
        )
        await until_waiting(system)
        system.advance(3600 + LEEWAY, noticed=False)
        await system.write("one")
        assert refusal(await waiting) == (401, "token_expired")


async def until_waiting(system: Ruled) -> None:
    """Wait until a poll waits for events, beside a WebSocket."""
    channels = system.sync().window._channels
    await eventually(lambda: sum(map(len, channels.values())) == 2, 10)


def no_reads(client: Client, app: str) -> AbstractAsyncContextManager[None]:
    """Every read of the clients with this name fails while the block runs."""
    return faults(client, ["aggregate", "getMore", "find"], app=app, errorCode=11600)


async def test_credentials_are_refused_while_mongodb_is_away(system: Ruled, settings: Settings, client: Client) -> None:
    authenticator = system.control.authenticator
    async with system.bearing(system.token()) as known:
        assert (await known.get("/v1/collections")).status_code == 200
        async with no_reads(client, app_name(settings, "feed")):
            await eventually(lambda: authenticator._interrupted_at is not None, 20)
            system.advance(DOUBTED_AFTER + 1, noticed=False)
            answer = await known.get("/v1/collections")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            async with socket(system, system.token()) as refused:
                assert (await refused.until("error"))["code"] == "unavailable"
                assert (await refused.closed())[0] == 1013
