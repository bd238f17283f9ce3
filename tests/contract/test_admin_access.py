"""`/v1/admin/access`: the rules in force, the refusals of all servers, and what a principal would see."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import bson
import httpx
from bson.raw_bson import RawBSONDocument

from eventsync.mongodb.client import app_name
from eventsync.stores.readiness import connected
from eventsync.stores.stats.processes import Process
from eventsync.stores.stores import Stores
from support.documents import joined
from support.failpoints import failing
from support.mutants import ODD, framed
from support.ruled import CANARY, Ruled, made
from support.systems import running_server
from support.waiting import eventually, patience

from .test_admin import Json, code_of, read
from .test_openapi import check


async def test_access_shows_rules_and_refusals(operator: httpx.AsyncClient, ada: httpx.AsyncClient) -> None:
    assert (await ada.get("/metrics")).status_code == 403
    found = await read(operator, "/v1/admin/access")
    assert found["rules"]["collections"]["things"]["user"]["hide"] == ["secret", "lines.cost"]
    assert {shape["name"] for shape in found["shapes"]} == {"of_secret", "of_state"}
    assert found["refusals"]["counts"]["not_operator"] >= 1
    assert ("ada", found["answered_by"]) in [(line["subject"], line["server"]) for line in found["refusals"]["recent"]]
    assert "secret_file" not in json.dumps(found)


async def refusals_until(operator: httpx.AsyncClient, holds: Callable[[Json], Any]) -> Json:
    """Return an answer's refusals as soon as this is true of them."""

    async def found() -> Json | None:
        refusals: Json = (await read(operator, "/v1/admin/access"))["refusals"]
        return refusals if holds(refusals) else None

    answer: Json = await eventually(found, 20)
    return answer


def subjects_of(refusals: Json) -> set[str]:
    return {line["subject"] for line in refusals["recent"]}


def counted(refusals: Json) -> dict[str, int]:
    return {each["server"]: each["count"] for each in refusals["servers"]}


async def test_refusals_of_all_servers_are_shown_while_they_run(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    here, there = new_id(), new_id()
    async with running_server(ruled.settings) as other:
        for url, sub in ((ruled.url, here), (other, there), (other, there)):
            headers = {"Authorization": f"Bearer {ruled.token(sub)}"}
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=patience(15)) as user:
                await eventually(partial(_is_refused, user))
        found = await refusals_until(operator, lambda refusals: {here, there} <= subjects_of(refusals))
        servers = {line["subject"]: line["server"] for line in found["recent"]}
        assert servers[here] != servers[there]
        assert found["complete"]
        # Lines of a kind are listed once in a minute, and all are counted.
        found = await refusals_until(operator, lambda refusals: counted(refusals).get(servers[there], 0) == 2)
        assert sum(counted(found).values()) == sum(found["counts"].values())
        times = [line["at"] for line in found["recent"]]
        assert times == sorted(times, reverse=True)
        # The other one tells of all, too, and each has a list of its own.
        async with httpx.AsyncClient(base_url=other, headers=operator.headers, timeout=patience(20)) as beside:
            found = await refusals_until(beside, lambda refusals: {here, there} <= subjects_of(refusals))
        assert (counted(found)[servers[there]], found["complete"]) == (2, True)
    found = await refusals_until(operator, lambda refusals: there not in subjects_of(refusals))
    assert here in subjects_of(found)
    assert servers[there] not in counted(found)


async def _is_refused(user: httpx.AsyncClient) -> bool:
    """Return True once a server that has just begun knows its rules."""
    return (await user.get("/metrics")).status_code == 403


async def test_refusals_are_incomplete_beside_a_server_of_an_earlier_version(
    operator: httpx.AsyncClient, ruled: Ruled
) -> None:
    earlier = Process.new("server")
    await refusals_until(operator, lambda refusals: refusals["complete"])
    async with connected(ruled.settings, "test") as client:
        processes = Stores.of(client, ruled.settings).stats.processes
        (server, *_) = (await processes.running()).of("server")
        assert "refusals" not in server.state
        await processes.renew(earlier, server.state)
        try:
            found = (await read(operator, "/v1/admin/access"))["refusals"]
        finally:
            await processes.remove(earlier)
    assert not found["complete"]
    assert earlier.name not in counted(found)


async def test_refusals_are_written_when_there_are_new_ones_or_the_record_was_lost(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    async with connected(ruled.settings, "test") as client:
        records = Stores.of(client, ruled.settings).log["processes"]
        mine = {"_id": (await read(operator, "/v1/admin/access"))["answered_by"]}

        async def record_where(**fields: Any) -> Json:
            found: Json = await eventually(lambda: records.find_one(mine | fields), 20)
            return found

        async def refused() -> str:
            async with ruled.client(sub := new_id()) as user:
                assert (await user.get("/metrics")).status_code == 403
            return sub

        await record_where(**{"refusals.recent.subject": await refused()})
        await records.update_one(mine, {"$set": {"refusals.mark": True}})
        for _ in range(3):
            record = await record_where()
            record = await record_where(at={"$gt": record["at"]})
            assert record["refusals"]["mark"], "nothing was refused, so nothing is written"
        sub = await refused()
        record = await record_where(**{"refusals.recent.subject": sub})
        assert "mark" not in record["refusals"]
        await records.delete_one(mine)
        await record_where(**{"refusals.recent.subject": sub})


async def test_refusals_of_the_answering_server_need_no_mongodb(operator: httpx.AsyncClient, ruled: Ruled) -> None:
    async with ruled.client(None) as nobody, connected(ruled.settings, "test") as client:
        assert (await nobody.get("/v1/collections")).status_code == 401
        settings, of = ruled.settings, f"{ruled.settings.log_db}.processes"
        async with failing(client, "aggregate", 91, app=app_name(settings, "serve"), times=None, of=of):
            found = (await read(operator, "/v1/admin/access"))["refusals"]
    assert not found["complete"]
    assert len(found["servers"]) == 1
    assert found["counts"]["token_missing"] >= 1
    assert "" in subjects_of(found)


async def test_explanation_shows_a_document_as_a_principal_sees_it(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    key, path = new_id(), "/v1/admin/access/explain"
    await made(operator, key)

    async def explained(**who: Any) -> Json:
        answer = await operator.post(path, json={"shape": f"things/{key}"} | who)
        found: Json = check(answer, path, "post")
        return found

    for who in ({"token": ruled.token("ada")}, {"claims": {"sub": "ada"}}):
        mine = await explained(**who)
        assert mine["may_read"] is True
        assert mine["seen"]["owner"] == "ada"
        assert CANARY not in json.dumps(mine["seen"])
        assert mine["hidden"] == ["lines.cost", "secret"]
    other = await explained(claims={"sub": "bob"})
    assert (other["may_read"], other["seen"]) == (False, None)
    whole = await explained(claims={"sub": "root"}, roles=["operator"])
    assert CANARY in json.dumps(whole["seen"])
    for body, expected in (
        ({"shape": "things/none", "claims": {}}, (404, "not_found")),
        ({"shape": "untracked/1", "claims": {}}, (404, "not_tracked")),
        ({"shape": f"things/{key}", "token": "nonsense"}, (400, "malformed")),
        ({"shape": f"things/{key}", "token": "t", "claims": {}}, (400, "malformed")),
        ({"shape": f"things/{key}", "roles": "user"}, (400, "malformed")),
        ({"claims": {}}, (400, "malformed")),
    ):
        assert await code_of(operator, "POST", path, json=body) == expected, body


async def test_explanation_reads_a_document_as_any_request_does(
    operator: httpx.AsyncClient, ruled: Ruled, new_id: Callable[[], str]
) -> None:
    """The driver refuses the first one, and of two owners it shows the last."""
    path, odd, twice, large = "/v1/admin/access/explain", new_id(), new_id(), new_id()
    refused = RawBSONDocument(framed(bson.encode({"_id": odd, "owner": "ada"})[4:-1], ODD["text that is not UTF-8"]))
    two_owners = joined({"_id": twice, "owner": "bob"}, {"owner": "ada"})
    await ruled.stores.data["things"].insert_many([refused, two_owners, {"_id": large, "text": "x" * 256 * 1024}])

    async def explained(key: str) -> Json:
        answer = await operator.post(path, json={"shape": f"things/{key}", "claims": {"sub": "ada"}})
        found: Json = check(answer, path, "post")
        return found

    mine = await explained(odd)
    assert (mine["may_read"], mine["seen"]) == (True, {"_id": odd, "owner": "ada", "v": "caf\ufffd"})
    nobody_s = await explained(twice)
    assert (nobody_s["may_read"], nobody_s["seen"]) == (False, None)
    assert [line["delete"].partition(" {")[0] for line in nobody_s["because"]] == ["does not match"]
    body = {"shape": f"things/{large}", "claims": {}}
    assert await code_of(operator, "POST", path, json=body) == (413, "too_large")


async def test_explanation_needs_rules(root: httpx.AsyncClient) -> None:
    body = {"shape": "things", "claims": {}}
    assert await code_of(root, "POST", "/v1/admin/access/explain", json=body) == (409, "conflict")
