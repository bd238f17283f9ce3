"""`history`, `diff` and `restore` as processes, against a real replica set and a real worker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson.int64 import Int64

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import watch
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.environment import command_environment
from support.histories import based, stored_at
from support.program import Program, Result, finished
from support.replay import caught_up, current_log, eventually, tracked
from support.systems import running_server, running_worker
from support.systems import tracked as served
from support.waiting import patience, within

Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"snapshot_chunk_bytes": 1024})


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return command_environment(settings)


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    return lambda *words: finished(*words, environment=environment, seconds=patience(30))


@pytest.fixture
async def orders(settings: Settings, stores: Stores) -> AsyncIterator[Any]:
    """The tracked collection `orders`: `old` is in its base, and `a` has three events after it."""
    documents = stores.data["orders"]
    await documents.insert_one({"_id": "old", "n": Int64(1)})
    async with running_worker(settings):
        await stores.tracking.ask(["orders"])
        await based(stores, await tracked(stores, "orders"), "orders")
        await documents.insert_one({"_id": "a", "n": 1})
        await documents.update_one({"_id": "a"}, {"$set": {"n": 2, "_sync": {"v": Int64(1), "op": "o", "by": "ann"}}})
        await documents.delete_one({"_id": "a"})
        await caught_up(stores)
        yield documents


async def test_history(orders: Any, stores: Stores, run: Run) -> None:
    log = await current_log(stores)
    result = await run("history", "orders/a")
    assert result.exit_code == 0, result
    lines = result.stdout.splitlines()
    assert [line.split()[2:4] for line in lines if not line.startswith(" ")] == [
        ["1", "create"],
        ["2", "update"],
        ["3", "delete"],
    ]
    assert "    replace /n 2" in lines
    assert "by ann" in result.stdout
    assert result.stderr == f"orders/a in log {log}: 3 of 3 events\n"
    newest = await run("history", "orders/a", "--limit", "1", "--json")
    assert json.loads(newest.stdout)["position"] == f"{log}:3"
    assert newest.stderr == f"orders/a in log {log}: 1 of 3 events\n"
    assert (await run("history", "orders/old")).stderr == f"orders/old in log {log}: 0 of 0 events\n"


async def test_history_of_nothing(orders: Any, run: Run) -> None:
    unknown = await run("history", "orders/b")
    assert (unknown.exit_code, unknown.stderr) == (1, "eventsync: the document orders/b is not known\n")
    other = await run("history", "others/b")
    said = "eventsync: the collection 'others' is not tracked; `eventsync track others` changes that\n"
    assert (other.exit_code, other.stderr) == (1, said)
    many = await run("history", "orders")
    assert (many.exit_code, many.stderr) == (1, "eventsync: orders is a collection; give a document, COLLECTION/ID\n")


async def test_history_says_what_is_not_kept(orders: Any, stores: Stores, run: Run) -> None:
    log = await current_log(stores)
    # As the archiver does: a floor without what was touched before it is a log that somebody has damaged.
    await stores.archive.touched.touch(log, [("orders", IdText("a"), Seq(1))])
    await stores.tiers.raise_archived_up_to(log, Seq(1))
    await stores.tiers.raise_horizon(log, Seq(1))
    result = await run("history", "orders/a")
    assert result.stderr == f"orders/a in log {log}: 2 of 2 events; events up to {log}:1 are not kept\n"


async def test_diff(orders: Any, stores: Stores, run: Run) -> None:
    log = await current_log(stores)
    result = await run("diff", "orders/a", f"{log}:1", "1")
    assert (result.exit_code, result.stdout) == (0, "    replace /n 2\n")
    assert result.stderr == f"orders/a: version 0 at {log}:1 → version 1 at {log}:2\n"
    as_json = await run("diff", "orders/a", "1", "--json")
    assert json.loads(as_json.stdout) == {
        "id": "a",
        "from": {"version": 1, "position": f"{log}:2"},
        "to": {"version": None, "position": f"{log}:3"},
        "patch": [{"op": "remove", "path": ""}],
    }
    whole = await run("diff", "orders/a", f"{log}:0", f"{log}:1")
    assert whole.stdout == '    add     (the document) {"_id":"a","n":1}\n'
    same = await run("diff", "orders/old", f"{log}:1")
    assert (same.exit_code, same.stdout) == (0, "")


async def test_diff_of_what_is_not_there(orders: Any, stores: Stores, run: Run) -> None:
    log = await current_log(stores)
    for words, said in (
        (("orders/a", "soon"), "'soon' is no point in time: expected a version (6), an instant"),
        (("orders/old", "0", "99"), "orders/old has no version 99 yet: it is at version 0"),
        (("orders/a", "99"), f"orders/a had no version 99, as far as it is known ({log}:0 and later)"),
        (("*/a", "1"), "the collection '*' is not tracked; there is no wildcard"),
        (("orders/a", f"{log}:9"), "is in the future"),
        (("orders/b", f"{log}:1"), f"there was no document orders/b at {log}:1 nor at {log}:3"),
        (("orders/a", "2001-01-01T00:00:00Z"), f"is no longer retained: states are known from {log}:0 on"),
        (("orders/a", "elsewhere:1"), "is of another log"),
    ):
        result = await run("diff", *words)
        assert (result.exit_code, result.stdout) == (1, ""), result
        assert said in result.stderr


async def over(stores: Stores, log: LogId, at: datetime) -> None:
    async def check() -> bool | None:
        checkpoint = await stores.logs.read_checkpoint(log)
        return True if checkpoint and checkpoint.time.time > at.timestamp() else None

    await eventually(stores, "heads", check)


async def test_restore(orders: Any, stores: Stores, run: Run) -> None:
    log = await current_log(stores)
    result = await run("restore", "orders", "--at", f"{log}:2", "--into", "then")
    assert result.exit_code == 0, result
    assert result.stdout == f"then: 2 documents, orders as it was at {log}:2\n"
    found = await stores.data["then"].find(sort=[("_id", 1)]).to_list()
    assert found == [{"_id": "a", "n": 2, "_sync": {"v": 1}}, {"_id": "old", "n": 1}]
    at = datetime.now(UTC)
    await over(stores, log, at)
    now = await run("restore", "orders", "--at", at.isoformat(), "--into", "now", "--json")
    assert json.loads(now.stdout) == {"collection": "orders", "into": "now", "position": f"{log}:3", "documents": 1}


async def test_restores_that_can_not_be(orders: Any, stores: Stores, run: Run) -> None:
    log = await current_log(stores)
    for words, said in (
        (("orders", "--at", f"{log}:2", "--into", "orders"), "is a tracked collection"),
        (("orders", "--at", "1", "--into", "then"), "a collection has no version"),
        (("orders", "--at", "yesterday", "--into", "then"), "'yesterday' is no point in time: expected an instant"),
        (("others", "--at", f"{log}:2", "--into", "then"), "is not tracked"),
        (("orders", "--at", "2001-01-01T00:00:00Z", "--into", "then"), "is no longer retained"),
        (("orders", "--at", "2999-01-01T00:00:00Z", "--into", "then"), "is in the future"),
    ):
        result = await run("restore", *words)
        assert (result.exit_code, result.stdout) == (1, ""), result
        assert said in result.stderr
    assert await stores.data.list_collection_names() == ["orders"]


def started(words: Sequence[str], environment: dict[str, str]) -> Program:
    with Path(os.devnull).open("ab") as nowhere:
        return Program(words, environment=environment, stdout=nowhere, stderr=nowhere)


@pytest.mark.slow
async def test_a_restore_that_is_killed_leaves_nothing_under_the_new_name(
    orders: Any, stores: Stores, run: Run, environment: dict[str, str]
) -> None:
    """And the next one removes what it was building."""
    log = await current_log(stores)
    await orders.insert_many([{"_id": n, "text": "x" * 200} for n in range(1500)])
    await caught_up(stores)
    checkpoint = await stores.logs.read_checkpoint(log)
    assert checkpoint is not None
    stored = await stored_at(stores, log, "orders", checkpoint)
    assert stored.chunks > 200
    words = ("restore", "orders", "--at", f"{log}:{checkpoint.seq}", "--into", "copy")
    async with watch(stores.data, [{"$match": {"ns.coll": {"$regex": "restoring"}}}]) as stream:
        program = started(words, environment)
        async with within(20):
            while not (batch := await stream.read(wait=1, limit=10)).changes:
                assert program.poll() is None
    program.kill()
    assert program.wait() == -signal.SIGKILL
    left = [name for name in await stores.data.list_collection_names() if name != "orders"]
    assert len(left) == 1, batch
    assert left[0].startswith("copy.restoring-")

    again = await run(*words)
    assert again.stdout == f"copy: 1501 documents, orders as it was at {log}:{checkpoint.seq}\n"
    assert again.stderr == f"{left[0]} belongs to a restore that is running or was just killed\n"
    assert await stores.data["copy"].count_documents({}) == 1501
    await stores.log["restores"].update_one({"_id": left[0]}, {"$set": {"until": datetime(2020, 1, 1, tzinfo=UTC)}})
    assert (await run(*words[:-1], "another")).stderr == ""
    assert set(await stores.data.list_collection_names()) == {"orders", "copy", "another"}


async def test_events_that_are_not_kept(orders: Any, stores: Stores, settings: Settings) -> None:
    """Over HTTP the history begins where what is kept begins, and says so; a request for more is refused."""
    log = await current_log(stores)
    path = "/v1/collections/orders/documents/a"
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        await served(url, ["orders"])
        assert (await client.get(f"{path}/events")).json().keys() == {"events"}
        await stores.tiers.raise_archived_up_to(log, Seq(1))
        await stores.tiers.raise_horizon(log, Seq(1))
        body = (await client.get(f"{path}/events")).json()
        assert ([event["seq"] for event in body["events"]], body["since"]) == ([2, 3], f"{log}:1")
        refused = await client.get(f"{path}/events", params={"after": f"{log}:0"})
        assert (refused.status_code, refused.json()["since"]) == (410, f"{log}:1")
        document = await client.get(path, params={"position": f"{log}:0"})
        assert (document.status_code, document.json()["since"]) == (410, f"{log}:1")


async def test_history_begins_behind_a_time_without_tracking(
    orders: Any, stores: Stores, settings: Settings, run: Run
) -> None:
    """Changes that are no events are missing before it: `since` says so, and nobody takes the rest for all."""
    log = await current_log(stores)
    assert (await run("untrack", "orders")).exit_code == 0
    await orders.insert_one({"_id": "a", "n": 7})
    await stores.tracking.ask(["orders"])
    await tracked(stores, "orders")
    await orders.update_one({"_id": "a"}, {"$set": {"n": 8}})
    await caught_up(stores)
    path = "/v1/collections/orders/documents/a/events"
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        await served(url, ["orders"])
        body = (await client.get(path)).json()
        since = int(body["since"].removeprefix(f"{log}:"))
        assert since >= 3
        assert [(event["op"], event["seq"] > since) for event in body["events"]] == [("update", True)]
        refused = await client.get(path, params={"after": f"{log}:{since - 1}"})
        assert (refused.status_code, refused.json()["since"]) == (410, body["since"])
    assert f"events up to {body['since']} are not kept" in (await run("history", "orders/a")).stderr
