"""HTTP doors for writing under rules: what is allowed, what is not, and what the answers show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pymongo.asynchronous.collection import AsyncCollection

from support.ruled import CANARY, MERGE, THINGS, made

Json = dict[str, Any]


async def test_write_is_answered_by_what_may_be_seen(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str], things: AsyncCollection[Json]
) -> None:
    await made(operator, mine := new_id())
    tag = (await ada.get(f"{THINGS}/{mine}")).headers["etag"]
    answer = await ada.patch(f"{THINGS}/{mine}", json={"n": 2}, headers=MERGE | {"If-Match": tag})
    assert answer.json() == {
        "id": mine,
        "version": 2,
        "doc": {"_id": mine, "owner": "ada", "n": 2, "lines": [{"of": "x"}]},
        "patch": [{"op": "replace", "path": "/n", "value": 2}],
    }
    assert (await ada.get(f"{THINGS}/{mine}")).headers["etag"] == answer.headers["etag"]
    replaced = await ada.put(f"{THINGS}/{mine}", json={"owner": "ada", "m": 3, "lines": [{"of": "x"}]})
    assert replaced.json()["doc"] == {"_id": mine, "owner": "ada", "m": 3, "lines": [{"of": "x"}]}
    stored = await things.find_one({"_id": mine})
    assert stored is not None
    assert (stored["secret"], stored["lines"]) == (f"{CANARY}-{mine}", [{"of": "x", "cost": CANARY}])
    assert stored["_sync"]["by"] == "ada"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"secret": "mine"}, "hidden"),
        ({"lines": None}, "hidden"),
        ({"made": "today"}, "fixed"),
        ({"lines": [{"of": "x", "cost": 1}]}, "hidden"),
    ],
)
async def test_edit_of_a_hidden_or_fixed_field_is_refused(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str], edit: Json, reason: str
) -> None:
    await made(operator, mine := new_id(), made="yesterday")
    answer = await ada.patch(f"{THINGS}/{mine}", json=edit, headers=MERGE)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert CANARY not in answer.text
    assert (await operator.get(f"{THINGS}/{mine}")).json()["version"] == 1
    metrics = (await operator.get("/metrics")).text
    assert f'eventsync_access_refused_total{{reason="{reason}"}}' in metrics


async def test_readable_document_that_may_not_be_written_is_forbidden(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, hers := new_id(), owner="bob", public=True)
    await made(operator, closed := new_id(), state="closed")
    for at in (hers, closed):
        assert (await ada.get(f"{THINGS}/{at}")).status_code == 200
        assert (await ada.patch(f"{THINGS}/{at}", json={"n": 2}, headers=MERGE)).status_code == 403
        assert (await ada.put(f"{THINGS}/{at}", json={"owner": "ada", "lines": [{"of": "x"}]})).status_code == 403
    assert (await ada.delete(f"{THINGS}/{hers}")).status_code == 403
    assert (await ada.post(THINGS, json={"owner": "bob"})).status_code == 403
    assert (await ada.put(f"{THINGS}/{new_id()}", json={"owner": "bob"})).status_code == 403


async def test_document_given_away_is_answered_by_id_and_version_alone(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, mine := new_id())
    answer = await ada.patch(f"{THINGS}/{mine}", json={"owner": "bob"}, headers=MERGE)
    assert (answer.status_code, answer.json()) == (200, {"id": mine, "version": 2})
    assert "etag" not in answer.headers
    assert (await ada.get(f"{THINGS}/{mine}")).status_code == 404
    assert (await ada.get(f"{THINGS}/{mine}/events")).status_code == 404


async def test_new_document_in_the_place_of_an_unreadable_one_names_nothing(
    operator: httpx.AsyncClient, bob: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, hers := new_id())
    for answer in (
        await bob.put(f"{THINGS}/{hers}", json={"owner": "bob"}),
        await bob.post(THINGS, json={"_id": hers, "owner": "bob"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "existing" not in answer.json()
        assert "location" not in answer.headers
    assert (await operator.get(f"{THINGS}/{hers}")).json()["doc"]["owner"] == "ada"


async def test_refusals_of_mongodb_name_no_hidden_field(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, hers := new_id(), owner="bob", code=hers)
    answer = await ada.post(THINGS, json={"owner": "ada", "code": hers})
    assert answer.status_code == 409
    assert "code" in answer.json()["detail"]
    # Its secret can't even be tried.
    refused = await ada.post(THINGS, json={"owner": "ada", "secret": f"{CANARY}-{hers}"})
    assert refused.status_code == 403


async def test_transaction_is_refused_as_a_whole_and_names_the_operation(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, mine := new_id())
    await made(operator, public := new_id(), owner="bob", public=True)
    listed = [
        {"method": "PATCH", "collection": "things", "id": mine, "patch": {"n": 2}},
        {"method": "PATCH", "collection": "things", "id": public, "patch": {"n": 2}},
    ]
    answer = await ada.post("/v1/transactions", json={"operations": listed})
    assert (answer.status_code, answer.json()["detail"].partition(":")[0]) == (403, "operation 1")
    assert (await operator.get(f"{THINGS}/{mine}")).json()["version"] == 1
    made_both = await ada.post("/v1/transactions", json={"operations": [listed[0], {**listed[0], "patch": {"m": 1}}]})
    assert [item["version"] for item in made_both.json()["results"]] == [2, 3]
    assert CANARY not in made_both.text


async def test_batch_answers_each_operation_by_what_its_author_may_see(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, mine := new_id())
    await made(operator, public := new_id(), owner="bob", public=True)
    await made(operator, hers := new_id(), owner="bob")
    listed = [{"method": "PATCH", "id": at, "patch": {"n": 2}} for at in (mine, public, hers)]
    listed.append({"method": "POST", "doc": {"owner": "bob"}})
    answer = await ada.post(f"{THINGS}:batch", json={"operations": listed}, headers={"Prefer": "return=representation"})
    assert [item["status"] for item in answer.json()["results"]] == [200, 403, 404, 403]
    assert CANARY not in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_idempotency_key_of_another_principal_finds_nothing(
    operator: httpx.AsyncClient, ada: httpx.AsyncClient, bob: httpx.AsyncClient, new_id: Callable[[], str]
) -> None:
    await made(operator, shared := new_id(), public=True)
    key = {"Idempotency-Key": f"key-{shared}"}
    first = await ada.patch(f"{THINGS}/{shared}", json={"n": 2}, headers=MERGE | key)
    assert first.json()["version"] == 2
    # The same request by another principal: neither a replay nor a conflict of keys.
    assert (await bob.patch(f"{THINGS}/{shared}", json={"n": 2}, headers=MERGE | key)).status_code == 403
    assert (await bob.post(THINGS, json={"owner": "bob"}, headers=key)).status_code == 201
    again = await ada.patch(f"{THINGS}/{shared}", json={"n": 2}, headers=MERGE | key)
    assert (again.json()["repeated"], again.json()["version"]) == (True, 2)
    other = await ada.patch(f"{THINGS}/{shared}", json={"n": 3}, headers=MERGE | key)
    assert (other.status_code, "~" in other.text) == (409, False)
