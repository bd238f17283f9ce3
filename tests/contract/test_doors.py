"""HTTP doors under rules: every route without a credential; reads, history and clients; what is hidden."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pymongo.asynchronous.collection import AsyncCollection
from websockets.exceptions import ConnectionClosed

from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.application import ROUTES
from support.peers.python import connect
from support.ruled import CANARY, MERGE, PATCH, THINGS, Ruled, made
from support.waiting import eventually

Json = dict[str, Any]


def same(one: httpx.Response, other: httpx.Response, old: str, new: str) -> None:
    """Assert that two answers have the same bytes and headers but for a name in them, which has the same length."""
    headers = [{name: text for name, text in each.headers.items() if name != "date"} for each in (one, other)]
    assert headers[0] == headers[1]
    assert (one.status_code, one.content.replace(old.encode(), new.encode())) == (other.status_code, other.content)


# --- every route ----------------------------------------------------------------------------------------------------


def requests() -> list[tuple[str, str, AccessLevel]]:
    found = []
    for route in ROUTES:
        if isinstance(route, Endpoint):
            path = route.path.format(collection="things", id="x", client_id="c", position="a:1", name="live.js")
            # A stream without a shape is malformed, whoever asks.
            path += "?shape=things" if path.endswith("/sse") else ""
            found += [(method, path, route.access) for method in sorted(route.methods or ())]
    return found


@pytest.mark.parametrize(("method", "path", "access"), requests())
async def test_route_is_closed_without_a_credential_unless_it_is_public(
    nobody: httpx.AsyncClient, ada: httpx.AsyncClient, method: str, path: str, access: AccessLevel
) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YWRhOmFkYQ=="}):
        answer = await nobody.request(method, path, headers=headers)
        if access is AccessLevel.PUBLIC:
            assert answer.status_code in {200, 204, 404, 426}
        else:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert method == "HEAD" or answer.json()["code"] == "unauthenticated"
    if access in {AccessLevel.OPERATOR, AccessLevel.OBSERVER}:
        assert (await ada.request(method, path)).status_code == 403, (method, path)


@pytest.mark.parametrize(("method", "path", "access"), requests())
async def test_other_methods_of_a_path_tell_nothing(
    nobody: httpx.AsyncClient, method: str, path: str, access: AccessLevel
) -> None:
    for other in ("OPTIONS", "TRACE", "PROPFIND"):
        assert (await nobody.request(other, path)).status_code == 405


async def test_web_socket_is_closed_without_a_credential(ruled: Ruled) -> None:
    for hello in ({}, {"token": "nonsense"}):
        async with connect(f"{ruled.url.replace('http', 'ws')}/v1/sync") as socket:
            await socket.send(json.dumps({"type": "hello", "shapes": ["things"]} | hello))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


async def test_mounted_routes_do_not_exist(nobody: httpx.AsyncClient) -> None:
    for path in ("/v2", "/v1", "/v1/collections/", "/metrics/", "/v1/sync/segments/"):
        assert (await nobody.get(path)).status_code in {401, 404}


# --- reading --------------------------------------------------------------------------------------------------------


async def test_reading_shows_what_is_allowed_without_what_is_hidden(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, mine := new_id())
    answer = await ada.get(f"{THINGS}/{mine}")
    assert answer.json()["doc"] == {"_id": mine, "owner": "ada", "n": 1, "lines": [{"of": "x"}]}
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["vary"] == "Authorization, Cookie"
    whole = await operator.get(f"{THINGS}/{mine}")
    assert CANARY in whole.text
    assert whole.headers["etag"] != answer.headers["etag"]
    unchanged = await ada.get(f"{THINGS}/{mine}", headers={"If-None-Match": answer.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert (await ada.get(f"{THINGS}/{mine}", headers={"If-None-Match": whole.headers["etag"]})).status_code == 200


async def test_tag_of_a_document_does_not_tell_its_hidden_values(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str], things: AsyncCollection[Json]
) -> None:
    await made(operator, mine := new_id())
    before = (await ada.get(f"{THINGS}/{mine}")).headers["etag"]
    await things.update_one({"_id": mine}, {"$set": {"secret": f"{CANARY}-other-{mine}", "lines.0.cost": 1}})
    assert (await ada.get(f"{THINGS}/{mine}")).headers["etag"] == before


LARGE = "x" * 40_000
"""Decided and shown by a helper process."""


@pytest.mark.parametrize("fill", ["", LARGE])
async def test_unreadable_document_is_like_a_missing_one(
    operator: httpx.AsyncClient, bob: httpx.AsyncClient, new_id: Callable[[], str], fill: str
) -> None:
    await made(operator, hers := new_id(), fill=fill)
    missing = new_id()
    tag = (await operator.get(f"{THINGS}/{hers}")).headers["etag"]
    body = {"owner": "ada", "fill": fill}
    calls: list[Callable[[str], Any]] = [
        lambda at: bob.get(f"{THINGS}/{at}"),
        lambda at: bob.head(f"{THINGS}/{at}"),
        lambda at: bob.get(f"{THINGS}/{at}", headers={"If-None-Match": tag}),
        lambda at: bob.get(f"{THINGS}/{at}", headers={"If-Match": tag}),
        lambda at: bob.get(f"{THINGS}/{at}", params={"version": 1}),
        lambda at: bob.get(f"{THINGS}/{at}", params={"version": 7}),
        lambda at: bob.get(f"{THINGS}/{at}", params={"at": "2020-01-01T00:00:00Z"}),
        lambda at: bob.get(f"{THINGS}/{at}/diff", params={"from": 1}),
        lambda at: bob.get(f"{THINGS}/{at}/diff", params={"from": 1, "to": 2}),
        lambda at: bob.get(f"{THINGS}/{at}/events"),
        lambda at: bob.get(f"{THINGS}/{at}/events", params={"after_version": 1}),
        lambda at: bob.patch(f"{THINGS}/{at}", json={"n": 2, "fill": fill}, headers=MERGE),
        lambda at: bob.patch(f"{THINGS}/{at}", json=[{"op": "test", "path": "/n", "value": 1}], headers=PATCH),
        lambda at: bob.patch(f"{THINGS}/{at}", json={"n": 2}, headers=MERGE | {"If-Match": tag}),
        lambda at: bob.patch(f"{THINGS}/{at}", json={"n": 2}, headers=MERGE | {"If-Match": "*"}),
        lambda at: bob.patch(f"{THINGS}/{at}", json={"n": 2}, headers=MERGE | {"Idempotency-Key": f"key-{at}"}),
        lambda at: bob.put(f"{THINGS}/{at}", json=body),
        lambda at: bob.put(f"{THINGS}/{at}", json=body, headers={"If-Match": tag}),
        lambda at: bob.put(f"{THINGS}/{at}", json=body, headers={"If-None-Match": "*"}),
        lambda at: bob.delete(f"{THINGS}/{at}"),
        lambda at: bob.delete(f"{THINGS}/{at}", headers={"If-Match": tag}),
        lambda at: bob.post("/v1/transactions", json=operations(at)),
        lambda at: bob.post("/v1/transactions", json=operations(at, if_match=1)),
        lambda at: bob.post(f"{THINGS}:batch", json=operations(at)),
    ]
    for number, call in enumerate(calls):
        unreadable, absent = await call(hers), await call(missing)
        assert unreadable.status_code in {200, 403, 404, 412}, (number, unreadable.text)
        assert unreadable.status_code != 200 or "results" in unreadable.text, number
        same(unreadable, absent, hers, missing)
        assert CANARY not in unreadable.text
    assert (await operator.get(f"{THINGS}/{hers}")).json()["version"] == 1


def operations(at: str, **condition: Any) -> Json:
    given = {"collection": "things", "id": at, **condition}
    return {
        "operations": [
            {"method": "PATCH", "patch": {"n": 2}, **given},
            {"method": "PUT", "doc": {"owner": "ada"}, **given},
            {"method": "DELETE", **given},
        ]
    }


async def test_collection_of_which_nothing_may_be_read_is_like_one_that_is_not_tracked(
    ada: httpx.AsyncClient, operator: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await operator.put(f"/v1/collections/closed/documents/{(at := new_id())}", json={"n": 1})
    calls: list[Callable[[str], Any]] = [
        lambda name: ada.get(f"/v1/collections/{name}/documents"),
        lambda name: ada.get(f"/v1/collections/{name}/documents", params={"filter": '{"n": 1}'}),
        lambda name: ada.get(f"/v1/collections/{name}/documents/{at}"),
        lambda name: ada.get(f"/v1/collections/{name}/documents/{at}/events"),
        lambda name: ada.get(f"/v1/collections/{name}/documents/{at}/diff", params={"from": 1}),
        lambda name: ada.post(f"/v1/collections/{name}/documents", json={"n": 1}),
        lambda name: ada.put(f"/v1/collections/{name}/documents/{at}", json={"n": 1}),
        lambda name: ada.patch(f"/v1/collections/{name}/documents/{at}", json={"n": 1}, headers=MERGE),
        lambda name: ada.delete(f"/v1/collections/{name}/documents/{at}"),
        lambda name: ada.post(
            "/v1/transactions", json={"operations": [{"method": "DELETE", "collection": name, "id": at}]}
        ),
        lambda name: ada.post(
            f"/v1/collections/{name}/documents:batch", json={"operations": [{"method": "DELETE", "id": at}]}
        ),
        lambda name: ada.get("/v1/sync/log", params={"shape": name, "position": "x:0"}),
        lambda name: ada.get("/v1/sync/snapshot", params={"shape": f"{name}/{at}"}),
        lambda name: ada.get("/v1/sync/sse", params={"shape": name}),
    ]
    for number, call in enumerate(calls):
        closed, unknown = await call("closed"), await call("absent")
        assert closed.status_code in {403, 404}, (number, closed.text)
        assert "track" not in closed.json()["detail"]
        same(closed, unknown, "closed", "absent")
    assert (await operator.get(f"/v1/collections/closed/documents/{at}")).json()["version"] == 1


async def test_list_of_collections_has_those_that_may_be_read(
    ada: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    async def listed(who: httpx.AsyncClient) -> tuple[set[str], set[str]]:
        body = (await who.get("/v1/collections")).json()
        return {item["name"] for item in body["collections"]}, {item["name"] for item in body.get("shapes", ())}

    await eventually(lambda: _has_shapes(operator, 2), 20)
    assert await listed(operator) == ({"closed", "open", "things"}, {"of_secret", "of_state"})
    # A shape whose parameter stands for a hidden value can't be followed, so it is not listed.
    assert await listed(ada) == ({"open", "things"}, {"of_state"})


async def _has_shapes(operator: httpx.AsyncClient, count: int) -> bool:
    return len((await operator.get("/v1/collections")).json().get("shapes", ())) == count


async def test_listing_has_what_may_be_read_and_its_cursors_tell_no_more(
    operator: httpx.AsyncClient, new_id: Callable[[], str], ruled: Ruled
) -> None:
    sub = new_id()
    for number in range(12):
        await made(operator, new_id(), owner=sub if number % 3 == 0 else "other", n=number)
    async with ruled.client(sub) as eve:
        for query in ({}, {"filter": '{"n": {"$gte": 0}}'}, {"sort": "n"}, {"sort": "-_id"}):
            seen: list[Json] = []
            params: dict[str, Any] = {"limit": 1, **query}
            while True:
                answer = (await eve.get(THINGS, params=params)).json()
                assert "documents" in answer, answer
                rows = [row for row in answer["documents"] if row["doc"]["owner"] == sub or row["doc"].get("public")]
                assert rows == answer["documents"]
                assert CANARY not in str(answer)
                seen += rows
                if "next" not in answer:
                    break
                params["after"] = answer["next"]
            own = [row["doc"]["n"] for row in seen if row["doc"]["owner"] == sub]
            assert sorted(own) == [0, 3, 6, 9], query


@pytest.mark.parametrize(
    "query",
    [
        {"filter": '{"secret": {"$gt": ""}}'},
        {"filter": '{"owner": "ada", "$nor": [{"lines.cost": 5}]}'},
        {"filter": '{"lines": {"$elemMatch": {"cost": 5}}}'},
        {"filter": '{"lines.0.cost": 5}'},
        {"filter": '{"lines": []}'},
        {"filter": '{"_sync.by": "root"}'},
        {"sort": "secret"},
        {"sort": "-lines.cost"},
        {"sort": "lines"},
    ],
)
async def test_filters_and_sorts_by_hidden_fields_are_refused(
    ada: httpx.AsyncClient, operator: httpx.AsyncClient, query: Json
) -> None:
    answer = await ada.get(THINGS, params=query)
    assert answer.status_code in {400, 403}, answer.text
    if "_sync" not in str(query):
        assert answer.json()["code"] == "forbidden"


# --- history --------------------------------------------------------------------------------------------------------


async def is_sequenced(reader: httpx.AsyncClient, id_text: str, version: int) -> None:
    """Wait until the log has a version of a document."""

    async def found() -> bool:
        return (await reader.get(f"{THINGS}/{id_text}", params={"version": version})).status_code == 200

    await eventually(found, 10)


async def test_past_states_are_shown_where_they_and_the_present_one_may_be_read(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, bob: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, mine := new_id(), owner="bob")
    await operator.patch(f"{THINGS}/{mine}", json={"owner": "ada"}, headers=MERGE)
    await operator.patch(f"{THINGS}/{mine}", json={"n": 3}, headers=MERGE)
    await is_sequenced(ada, mine, 3)
    answers = {version: await ada.get(f"{THINGS}/{mine}", params={"version": version}) for version in (1, 2, 3)}
    assert [answer.status_code for answer in answers.values()] == [404, 200, 200]
    assert answers[2].json()["doc"] == {"_id": mine, "owner": "ada", "n": 1, "lines": [{"of": "x"}]}
    assert answers[2].headers["cache-control"] == "private, no-cache"
    difference = await ada.get(f"{THINGS}/{mine}/diff", params={"from": 1, "to": 3})
    assert difference.json()["from"]["version"] is None
    assert CANARY not in difference.text
    later = await ada.get(f"{THINGS}/{mine}/diff", params={"from": 2, "to": 3})
    assert later.json()["patch"] == [{"op": "replace", "path": "/n", "value": 3}]
    # It was his, and is not any more.
    assert (await bob.get(f"{THINGS}/{mine}", params={"version": 1})).status_code == 404
    assert (await bob.get(f"{THINGS}/{mine}/diff", params={"from": 1})).status_code == 404
    whole = await operator.get(f"{THINGS}/{mine}", params={"position": later.json()["to"]["position"]})
    assert whole.headers["cache-control"] == "private, no-cache"


async def test_history_has_what_its_reader_saw_and_nothing_of_what_is_hidden(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, bob: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, mine := new_id(), owner="bob", n=1)
    for fields in ({"n": 2}, {"owner": "ada"}, {"secret": f"{CANARY}-2-{mine}"}, {"n": 3}):
        await operator.patch(f"{THINGS}/{mine}", json=fields, headers=MERGE)

    async def events() -> list[Json]:
        answer = await ada.get(f"{THINGS}/{mine}/events")
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["events"]
        return found if found and found[-1]["version"] == 5 else []

    found = await eventually(events, 10)
    assert [(event["op"], event.get("enter"), event["version"]) for event in found] == [
        ("create", True, 3),
        ("update", None, 4),
        ("update", None, 5),
    ]
    assert found[0]["doc"] == {"_id": mine, "owner": "ada", "n": 2, "lines": [{"of": "x"}]}
    assert found[1]["patch"] == []
    assert CANARY not in str(found)
    missing = new_id()
    same(await bob.get(f"{THINGS}/{mine}/events"), await bob.get(f"{THINGS}/{missing}/events"), mine, missing)


async def test_log_and_snapshot_have_what_may_be_read(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    sub = new_id()
    async with ruled.client(sub) as eve:
        head = json.loads((await eve.get("/v1/sync/snapshot", params={"shape": "things"})).text.split("\n")[0])
        await made(operator, mine := new_id(), owner=sub)
        await made(operator, new_id(), owner="bob")
        answer = await eve.get("/v1/sync/log", params={"shape": "things", "position": head["position"], "wait": 10})
        events = answer.json()["events"]
        assert [event["doc"] for event in events] == [{"_id": mine, "owner": sub, "n": 1, "lines": [{"of": "x"}]}]

        async def snapshot() -> list[str]:
            # It may be of a moment before the write: the log has the rest.
            rows = (await eve.get("/v1/sync/snapshot", params={"shape": f"things/{mine}"})).text.splitlines()
            return rows if len(rows) == 2 else []

        rows = await eventually(snapshot, 10)
        assert json.loads(rows[1])["doc"] == events[0]["doc"]
        for text in (answer.text, *rows):
            assert CANARY not in text
        assert answer.headers["cache-control"] == "no-store"
        begin = head["position"].partition(":")[0] + ":0"
        full = await eve.get("/v1/sync/log", params={"shape": "things", "position": begin, "limit": 1})
        assert "public" not in full.headers["cache-control"]


# --- clients --------------------------------------------------------------------------------------------------------


async def test_state_vector_of_another_principal_is_not_found_nor_moved(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, bob: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    name = new_id()
    position = (await operator.get("/readyz")).json()["position"]
    vector = {"vector": {"open": position}}
    mine = await ada.put(f"/v1/state-vectors/{name}", json=vector)
    assert (mine.status_code, mine.json()["client_id"]) == (200, name)
    assert (await bob.get(f"/v1/state-vectors/{name}")).status_code == 404
    start = {"vector": {"open": f"{position.partition(':')[0]}:0"}}
    assert (await bob.put(f"/v1/state-vectors/{name}", json=start)).json()["vector"] == start["vector"]
    assert (await ada.get(f"/v1/state-vectors/{name}")).json()["vector"] == vector["vector"]
    assert (await bob.delete(f"/v1/state-vectors/{name}")).status_code == 204
    assert (await ada.get(f"/v1/state-vectors/{name}")).status_code == 200
    # An operator sees all of them, and may name each.
    listed = (await operator.get("/v1/state-vectors", params={"limit": 1000})).json()["clients"]
    (stored,) = [each["client_id"] for each in listed if each["client_id"].endswith(name)]
    assert stored != name
    assert (await operator.get(f"/v1/state-vectors/{stored}")).json()["vector"] == vector["vector"]
    assert (await ada.get(f"/v1/state-vectors/{stored}")).status_code == 404


async def test_state_vector_takes_no_shape_that_may_not_be_read(
    ada: httpx.AsyncClient, operator: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    log = (await operator.get("/readyz")).json()["position"].partition(":")[0]
    for shape in ("closed", "absent"):
        answer = await ada.put(f"/v1/state-vectors/{new_id()}", json={"vector": {shape: f"{log}:0"}})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_health_shows_details_to_operators_only(
    nobody: httpx.AsyncClient, ada: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    for somebody in (nobody, ada):
        answer = await somebody.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    assert (await operator.get("/readyz")).json()["position"]
