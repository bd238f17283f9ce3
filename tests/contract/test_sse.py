"""`GET /v1/sync/sse`: the stream, resuming, and refusals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse

NewId = Callable[[], str]
PATH = "/v1/sync/sse"


@asynccontextmanager
async def stream(root: httpx.AsyncClient, *shapes: str, **query: str) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    headers = {"last-event-id": query.pop("last")} if "last" in query else {}
    async with aconnect_sse(root, "GET", PATH, params={"shape": list(shapes), **query}, headers=headers) as source:
        source.response.raise_for_status()
        yield source.aiter_sse()


async def until(events: AsyncIterator[ServerSentEvent], kind: str) -> ServerSentEvent:
    async for event in events:
        if event.event == kind:
            return event
    raise AssertionError(f"no {kind}")


async def test_stream_headers(root: httpx.AsyncClient) -> None:
    async with root.stream("GET", PATH, params={"shape": "things/none"}) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-accel-buffering"] == "no"
        first = await anext(aiter(answer.aiter_lines()))
    name, _, milliseconds = first.partition(": ")
    assert name == "retry"
    assert 1000 <= int(milliseconds) <= 3000


async def test_id_is_the_whole_vector_and_resumes(root: httpx.AsyncClient, api: Any, new_id: NewId) -> None:
    one, two = new_id(), new_id()
    shapes = (f"things/{one}", f"things/{two}")
    await api.put(f"/{one}", json={"n": 1})
    async with stream(root, *shapes) as events:
        await until(events, "live")
        last = await until(events, "live")
    vector = parse_qs(last.id)
    assert set(vector) == set(shapes)
    await api.put(f"/{one}", json={"n": 2})
    await api.put(f"/{two}", json={"n": 3})
    async with stream(root, *shapes, last=last.id) as events:
        seen = []
        async for event in events:
            assert event.event in {"welcome", "events", "live"}, "nothing is fetched again"
            seen += [(change["id"], change["version"]) for change in json.loads(event.data).get("events", [])]
            if (one, 2) in seen and (two, 1) in seen:
                break
    # On a busy machine the first stream may have ended before the first change had its number.
    assert [change for change in seen if change != (one, 1)] == [(one, 2), (two, 1)]


async def test_last_event_id_takes_precedence_over_the_vector(root: httpx.AsyncClient, new_id: NewId) -> None:
    shape = f"things/{new_id()}"
    async with stream(root, shape) as events:
        last = (await until(events, "live")).id
    async with stream(root, shape, last=last, vector=f"{shape}=zzzzzzzz:1") as events:
        welcome = await anext(events)
        following = await anext(events)
        assert (welcome.event, following.event) == ("welcome", "live")
    async with stream(root, shape, vector=f"{shape}=zzzzzzzz:1") as events:
        assert (await until(events, "reset")).json()["reason"] == "unknown_log"


@pytest.mark.parametrize("count", [1, 5])
async def test_short_id_of_long_shapes_resumes(root: httpx.AsyncClient, api: Any, new_id: NewId, count: int) -> None:
    ids = [f"{new_id()} {'ü' * (400 if count == 1 else 100)}" for _ in range(count)]
    shapes = [f"things/{text}" for text in ids]
    async with stream(root, *shapes) as events:
        last = [await until(events, "live") for _ in shapes][-1]
    assert len(last.id) < 100
    assert "things" not in last.id
    for text in ids:
        assert (await api.put("/" + quote(text, safe=""), json={})).status_code == 201
    for known in ({"last": last.id}, {"vector": last.id}, {"vector": last.id.partition(".")[2]}):
        async with stream(root, *shapes, **known) as events:
            seen: list[Any] = []
            async for event in events:
                assert event.event in {"welcome", "events", "live", "progress"}, "nothing is fetched again"
                seen += json.loads(event.data).get("events", [])
                if len(seen) == count:
                    break
        assert {event["id"] for event in seen} == set(ids)
    # Positions are never taken for those of other shapes, nor of these in another order.
    other = await root.get(PATH, params={"shape": [*shapes[1:], "things"]}, headers={"last-event-id": last.id})
    assert (other.status_code, other.json()["code"]) == (400, "malformed")
    # The long form is taken all the same.
    seq = json.loads(last.data)["position"]
    async with stream(root, *shapes, vector=urlencode(dict.fromkeys(shapes, seq))) as events:
        assert [(await anext(events)).event for _ in range(2)] == ["welcome", "events"]


async def test_heartbeat_is_progress(root: httpx.AsyncClient, new_id: NewId) -> None:
    shape = f"things/{new_id()}"
    async with stream(root, shape) as events:
        progress = await until(events, "progress")
    assert set(progress.json()["vector"]) == {shape}
    assert parse_qs(progress.id) == {key: [value] for key, value in progress.json()["vector"].items()}


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, "malformed"),
        ({"shape": "$x"}, 400, "malformed"),
        ({"shape": "secrets"}, 404, "not_tracked"),
        ({"shape": "things", "vector": "things=x"}, 400, "malformed"),
        ({"shape": "things", "vector": "%ff=a:1"}, 400, "malformed"),
        ({"shape": "things", "client_id": "x" * 129}, 400, "malformed"),
        ({"shape": [f"things/{n}" for n in range(51)]}, 400, "malformed"),
        ({"shape": ["things/", "things/int:abc"]}, 400, "malformed"),
    ],
)
async def test_permanent_errors_are_problem_documents(
    root: httpx.AsyncClient, query: Any, status: int, code: str
) -> None:
    answer = await root.get(PATH, params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("shapes", [["secrets", "things"], ["things", "secrets/1"]])
async def test_untracked_shape_among_others_is_refused_alone(root: httpx.AsyncClient, shapes: list[str]) -> None:
    seen = {}
    async with stream(root, *shapes) as events:
        async for event in events:
            seen[event.event] = event.json()
            if {"error", "live"} <= seen.keys():
                break
    assert seen["live"]["shape"] == "things"
    assert (seen["error"]["code"], seen["error"]["shape"]) == ("not_tracked", (set(shapes) - {"things"}).pop())
    assert "retry_after" not in seen["error"]


async def test_texts_that_are_no_shapes_are_refused_by_name(root: httpx.AsyncClient) -> None:
    """So are shapes beyond the maximum. All keep their places in the short form of a vector."""
    texts = ["things/", "things", "things/int:abc", *(f"things/{n}" for n in range(6))]
    refused = {"things/": "malformed", "things/int:abc": "malformed"} | dict.fromkeys(texts[7:], "rate_limited")
    vector: dict[str, str] = {}
    for _ in range(2):
        seen: dict[str, str] = {}
        is_live, position = False, ""
        async with stream(root, *texts, **vector) as events:
            async for event in events:
                message = event.json()
                if event.event == "live" and message["shape"] == "things":
                    is_live, position = True, message["position"]
                if event.event == "error":
                    seen[message["shape"]] = message["code"]
                    assert "retry_after" not in message
                if is_live and len(seen) == len(refused):
                    break
        assert seen == refused
        vector = {"vector": f",{position}" + "," * 7}


async def test_untracked_shapes_alone_are_404(root: httpx.AsyncClient) -> None:
    answer = await root.get(PATH, params={"shape": ["secrets", "secrets/1"]})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_tracked")


async def test_head_opens_no_stream(root: httpx.AsyncClient) -> None:
    before = (await root.get("/readyz")).json()["connections"]
    answer = await root.head(PATH, params={"shape": "things"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (await root.head(PATH, params={"shape": "secrets"})).status_code == 404
    # The same connection serves what comes next.
    assert (await root.get("/readyz")).json()["connections"] <= before


async def test_foreign_origins_are_403(root: httpx.AsyncClient) -> None:
    refused = await root.get(PATH, params={"shape": "things"}, headers={"origin": "https://evil.example"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    origin = {"origin": "https://app.example"}
    async with root.stream("GET", PATH, params={"shape": "things"}, headers=origin) as answer:
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
    rebound = await root.get("/v1/collections", headers={"host": "evil.example"})
    assert (rebound.status_code, rebound.json()["code"]) == (403, "forbidden")
