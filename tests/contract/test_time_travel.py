"""Time travel over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from jsonpatch import apply_patch

from eventsync.api import openapi
from support.json_schema import faults
from support.systems import events_of
from support.waiting import within

NewId = Callable[[], str]
MERGE = {"content-type": "application/merge-patch+json"}
IMMUTABLE = "public, max-age=31536000, immutable"
LONG = "so long that a patch describes its change" * 5
DOCUMENT = openapi.document()
ONE = "/v1/collections/{collection}/documents/{id}"


def checked(answer: httpx.Response, status: int = 200, *, of: str = ONE) -> Any:
    """The body, of the form that `/openapi.json` says."""
    assert answer.status_code == status, answer.text
    response = DOCUMENT["paths"][of]["get"]["responses"][str(status)]
    media = response["content"][answer.headers["content-type"]]
    assert not list(faults(DOCUMENT, media["schema"], answer.json()))
    return answer.json()


def problem(answer: httpx.Response, status: int, code: str, *, of: str = ONE) -> dict[str, Any]:
    body: dict[str, Any] = checked(answer, status, of=of)
    assert body["code"] == code, body
    return body


async def written(root: httpx.AsyncClient, api: httpx.AsyncClient, key: str) -> list[dict[str, Any]]:
    """The events of a document that was made, changed, deleted and made again."""
    (await api.put(f"/{key}", json={"n": 1, "text": LONG})).raise_for_status()
    (await api.patch(f"/{key}", json={"n": 2, "more": {"a": 1}}, headers=MERGE)).raise_for_status()
    (await api.delete(f"/{key}")).raise_for_status()
    (await api.put(f"/{key}", json={"n": 3})).raise_for_status()
    return await events_of(str(root.base_url), f"things/{key}", 4)


async def log_of(root: httpx.AsyncClient) -> str:
    return str((await root.get("/readyz")).json()["position"].split(":")[0])


async def at(api: httpx.AsyncClient, key: str, **point: str | int) -> httpx.Response:
    return await api.get(f"/{key}", params=point)


async def test_read_at_a_position(root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId) -> None:
    key, log = new_id(), await log_of(root)
    made, changed, deleted, again = [event["seq"] for event in await written(root, api, key)]
    first = await at(api, key, position=f"{log}:{made}")
    assert checked(first) == {
        "id": key,
        "version": 1,
        "doc": {"_id": key, "n": 1, "text": LONG},
        "position": f"{log}:{made}",
    }
    tag = first.headers["etag"]
    assert (tag[:3], first.headers["cache-control"]) == ('"1.', IMMUTABLE)
    cached = await api.get(f"/{key}", params={"position": f"{log}:{made}"}, headers={"if-none-match": tag})
    assert (cached.status_code, cached.content) == (304, b"")
    second = checked(await at(api, key, position=f"{log}:{changed}"))
    assert (second["version"], second["doc"]["more"]) == (2, {"a": 1})
    gone = problem(await at(api, key, position=f"{log}:{deleted}"), 404, "not_found")
    assert gone["detail"] == f"there was no document things/{key} at {log}:{deleted}"
    assert checked(await at(api, key, position=f"{log}:{again}"))["doc"] == {"_id": key, "n": 3}


async def test_read_at_a_version(root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId) -> None:
    """A version may come again: so it may not be cached, and the newest state that had it counts."""
    key = new_id()
    await written(root, api, key)
    second = await api.get(f"/{key}", params={"version": 2}, headers={"if-none-match": '"2"', "if-match": '"2"'})
    assert checked(second)["doc"] == {"_id": key, "n": 2, "text": LONG, "more": {"a": 1}}
    assert (second.headers["etag"][:3], second.headers["cache-control"]) == ('"2.', "no-cache")
    has = {"if-none-match": second.headers["etag"]}
    assert (await api.get(f"/{key}", params={"version": 2}, headers=has)).status_code == 304
    assert (await api.get(f"/{key}", params={"version": 1}, headers=has)).status_code == 200
    assert checked(await at(api, key, version=1))["doc"] == {"_id": key, "n": 3}
    problem(await at(api, key, version=9), 404, "not_found")


async def settled(api: httpx.AsyncClient, key: str, instant: str) -> httpx.Response:
    """The answer, asked for again as long as the server says that the instant may not be over."""
    async with within(20):
        while (answer := await at(api, key, at=instant)).status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert "may not be over" in problem(answer, 503, "unavailable")["detail"]
    return answer


async def test_read_at_an_instant(root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId) -> None:
    key, log = new_id(), await log_of(root)
    events = await written(root, api, key)
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    answer = await settled(api, key, now)
    assert checked(answer)["doc"] == {"_id": key, "n": 3}
    assert answer.headers["cache-control"] == IMMUTABLE
    seq = int(answer.json()["position"].removeprefix(f"{log}:"))
    assert seq >= events[-1]["seq"]
    for event, doc in zip(events, ({"n": 1}, {"n": 2}, None, {"n": 3}), strict=True):
        if sum(other["at"] == event["at"] for other in events) > 1:
            continue  # two in one millisecond: the instant is behind both
        found = await settled(api, key, event["at"])
        assert (found.status_code == 404) == (doc is None)
        assert doc is None or checked(found)["doc"]["n"] == doc["n"]


@pytest.mark.parametrize(
    "query",
    [
        "version=-1", "version=x", "version=", "at=yesterday", "at=2026-11-23", "at=1", "position=1", "position=x:",
        "version=1&version=1", "version=1&position=a:1", "at=2026-11-23T05:22:46+01:00",
    ],
)  # fmt: skip
async def test_malformed_points_are_400(api: httpx.AsyncClient, query: str) -> None:
    problem(await api.get(f"/anything?{query}"), 400, "malformed")


async def test_unknown_points_are_refused(root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId) -> None:
    key, log = new_id(), await log_of(root)
    (await api.put(f"/{key}", json={"n": 1})).raise_for_status()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    for point in ({"position": f"{log}:999999999"}, {"at": later}):
        assert "is in the future" in problem(await at(api, key, **point), 400, "malformed")["detail"]
    assert problem(await at(api, key, position="nowhere:1"), 409, "reset")["reason"] == "unknown_log"
    gone = problem(await at(api, key, at="2001-01-01T00:00:00Z"), 410, "gone")
    assert gone["since"].startswith(f"{log}:")
    assert gone["since"] in gone["detail"]
    assert problem(await root.get("/v1/collections/untracked/documents/1?version=1"), 404, "not_tracked")


async def test_difference_of_two_points(root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId) -> None:
    key, log = new_id(), await log_of(root)
    events = await written(root, api, key)
    made, changed, deleted, again = [f"{log}:{event['seq']}" for event in events]

    async def difference(**points: str) -> tuple[httpx.Response, Any]:
        answer = await api.get(f"/{key}/diff", params=points)
        return answer, checked(answer, of=ONE + "/diff")

    answer, body = await difference(**{"from": made, "to": changed})
    assert body == {
        "id": key,
        "from": {"version": 1, "position": made},
        "to": {"version": 2, "position": changed},
        "patch": events[1]["patch"],
    }
    assert answer.headers["cache-control"] == IMMUTABLE
    answer, body = await difference(**{"from": "2"})
    assert (body["from"]["version"], body["to"]["version"]) == (2, 1)
    assert apply_patch({"_id": key, "n": 2, "text": LONG, "more": {"a": 1}}, body["patch"]) == {"_id": key, "n": 3}
    assert answer.headers["cache-control"] == "no-cache"
    _, body = await difference(**{"from": deleted, "to": again})
    assert body["from"] == {"version": None, "position": deleted}
    assert body["patch"] == [{"op": "add", "path": "", "value": {"_id": key, "n": 3}}]
    _, body = await difference(**{"from": changed, "to": deleted})
    assert body["patch"] == [{"op": "remove", "path": ""}]


async def test_impossible_differences_are_refused(
    root: httpx.AsyncClient, api: httpx.AsyncClient, new_id: NewId
) -> None:
    key, log = new_id(), await log_of(root)
    deleted = f"{log}:{(await written(root, api, key))[2]['seq']}"
    of = ONE + "/diff"
    problem(await api.get(f"/{key}/diff", params={"from": deleted, "to": deleted}), 404, "not_found", of=of)
    problem(await api.get(f"/{key}/diff"), 400, "malformed", of=of)
    problem(await api.get(f"/{key}/diff", params={"from": "1", "to": "2026"}), 404, "not_found", of=of)
    problem(await api.get(f"/{key}/diff", params={"from": "1", "to": "soon"}), 400, "malformed", of=of)
    problem(await api.get(f"/{key}/diff", params={"from": "nowhere:1"}), 409, "reset", of=of)
    problem(await api.get(f"/{key}/diff", params={"from": "1990-01-01T00:00:00Z"}), 410, "gone", of=of)
