"""`track`, `status` and `tail` against a real replica set and a real worker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.mongodb.change_stream import token_time, watch
from eventsync.settings import Settings
from eventsync.stores.clients.state_vectors import NumberedPosition, VectorUpdate
from eventsync.stores.stats.overview import JOBS
from eventsync.stores.stores import SNAPSHOTTING, Stores
from support.environment import command_environment
from support.program import Result, finished
from support.replay import caught_up, eventually, tracked
from support.systems import running_worker
from support.waiting import patience, within

Run = Callable[..., "asyncio.Task[Result]"]


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """By which the commands find this test's database, and nothing else."""
    return command_environment(settings)


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run a command as a process of its own, for at most ten seconds."""

    def started(*words: str) -> asyncio.Task[Result]:
        running = finished(*words, environment=environment, directory=tmp_path, seconds=patience(10))
        return asyncio.create_task(running, name=" ".join(words))

    return started


async def start(environment: dict[str, str], directory: Path, *words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "eventsync", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=directory,
    )


@pytest.fixture
async def orders(settings: Settings, stores: Stores, run: Run) -> AsyncIterator[Any]:
    """The tracked collection `orders`, while a worker runs."""
    async with running_worker(settings):
        tracked = await run("track", "orders")
        assert tracked.exit_code == 0, tracked
        assert tracked.stdout.endswith("tracked: orders\n")
        yield stores.data["orders"]


async def log_of(stores: Stores) -> LogId:
    current = await stores.logs.current()
    assert current is not None
    return current.id


async def events_up_to(stores: Stores, seq: int) -> None:
    """Wait until the log has so many events."""
    pipeline = [{"$match": {"ns.coll": "events"}}]
    log = await log_of(stores)
    async with within(10), watch(stores.log, pipeline) as stream:
        while (tail := await stores.events.tail(log)) is None or tail.seq < seq:
            await stream.read(wait=1.0, limit=100)


async def test_track_without_a_worker_says_so_and_the_request_stands(run: Run, stores: Stores) -> None:
    result = await run("track", "orders", "lines", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "no worker runs: start `eventsync worker`" in result.stderr
    assert [(item.name, item.log) for item in await stores.tracking.read()] == [("lines", None), ("orders", None)]


async def test_track_refuses_a_name_that_can_not_be_tracked(run: Run, stores: Stores) -> None:
    result = await run("track", "system.users")
    assert result.exit_code == 1
    assert result.stderr.startswith("eventsync: 'system.users' can't be a collection name")
    assert await stores.tracking.read() == []


async def test_status_before_anything_has_run(run: Run) -> None:
    result = await run("status", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "log": None,
        "head": None,
        "leader": None,
        "lag": None,
        "clients": None,
        "journal_delay": None,
        "checkpoint": None,
        "collections": [],
        "tiers": None,
        "archive": "none",
        "snapshots": [],
        "jobs": dict.fromkeys(JOBS),
    }


async def test_status_of_a_running_system(orders: Any, stores: Stores, run: Run) -> None:
    await orders.insert_many([{"_id": "a"}, {"_id": "b"}])
    await events_up_to(stores, 2)
    await stores.tracking.ask(["later"])
    log = await log_of(stores)
    seen = NumberedPosition(1, Seq(1), log)
    await stores.vectors.record([VectorUpdate("one", "sse", {Shape("orders"): seen})])
    result = await run("status", "--json")
    assert result.exit_code == 0, result
    status = json.loads(result.stdout)
    assert status["head"] == f"{log}:2"
    assert status["log"] == {"id": log, "number": 1, "reason": "the first log"}
    assert str(os.getpid()) in status["leader"]
    assert 0 <= status["checkpoint"]["age"] < 10
    assert status["collections"][1] == {"name": "orders", "state": "tracked", "base": 0}
    assert status["clients"] == {"count": 1, "oldest": "one", "seq": 1}
    table = await run("status")
    assert table.exit_code == 0
    assert f"{log}:2" in table.stdout
    assert "1 known; furthest behind, by 1: one at 1" in table.stdout
    assert status["leader"] in table.stdout


async def test_status_after_the_leader_has_gone(settings: Settings, stores: Stores, run: Run) -> None:
    async with running_worker(settings), watch(stores.log, [{"$match": {"ns.coll": "logs"}}]) as stream:
        while await stores.logs.current() is None:
            await stream.read(wait=1.0, limit=1)
    result = await run("status")
    assert result.exit_code == 1
    assert "expired or was released" in result.stdout


async def test_status_says_that_the_journal_is_flushed(stores: Stores, run: Run) -> None:
    async with watch(stores.data, []) as stream:
        token, time = stream.token, token_time(stream.token)
    log = await stores.logs.begin(None, cluster="one", reason="the first log", token=token, time=time)
    await stores.logs.checkpoint(log.id, Seq(0), token, time, 0.052)
    assert json.loads((await run("status", "--json")).stdout)["journal_delay"] == 0.052
    shown = " ".join((await run("status")).stdout.split())
    assert "wait 52 ms for it otherwise (mongod --journalCommitInterval)" in shown


async def test_status_counts_what_no_worker_has_read(settings: Settings, stores: Stores, run: Run) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["orders"])
        log = await tracked(stores, "orders")
        await stores.data["orders"].insert_one({"_id": 0})
        await caught_up(stores)
    begun = time.time()
    await stores.data["orders"].insert_many([{"_id": n} for n in range(1, 6)])
    await stores.data["orders"].delete_one({"_id": 0})
    await stores.data["elsewhere"].insert_one({"_id": 1})
    found = json.loads((await run("status", "--json")).stdout)
    assert (found["leader"], found["head"]) == (None, f"{log}:1")
    assert (found["lag"]["events"], found["lag"]["more"], found["lag"]["unknown"]) == (6, False, None)
    # Since the first of these changes, whose time MongoDB has in whole milliseconds.
    assert 0 < found["lag"]["seconds"] <= time.time() - begun + 0.002
    table = (await run("status")).stdout
    assert re.search(r"^lag +6 events, [0-9.]+ s *$", table, re.MULTILINE), table
    async with running_worker(settings):
        await caught_up(stores)
        found = json.loads((await run("status", "--json")).stdout)
        assert found["leader"] is not None
        assert found["lag"] == {"events": 0, "more": False, "seconds": 0.0, "unknown": None}
        assert re.search(r"^lag +0 events, 0\.0 s *$", (await run("status")).stdout, re.MULTILINE)


async def test_tail_from_a_position_prints_what_happened_and_what_happens(
    orders: Any, stores: Stores, run: Run
) -> None:
    await orders.insert_one({"_id": "a", "n": 1})
    start = f"{await log_of(stores)}:0"
    tailing = run("tail", "orders", "--from", start, "--limit", "3")
    await orders.update_one({"_id": "a"}, {"$set": {"n": 2}, "$unset": {"gone": ""}})
    await orders.delete_one({"_id": "a"})
    result = await tailing
    assert result.exit_code == 0, result
    lines = result.stdout.splitlines()
    assert [line[23:] for line in lines if not line.startswith("    ")] == [
        "  1  create  a  0 → 0  external",
        "  2  update  a  0 → 0  external",
        "  3  delete  a  0 → 0  external",
    ]
    assert [line for line in lines if line.startswith("    ")] == ['    {"_id":"a","n":1}', "    replace /n 2"]


async def test_tail_begins_now_and_follows_one_document_as_ndjson(orders: Any, stores: Stores, run: Run) -> None:
    await orders.insert_many([{"_id": "a", "n": 0}, {"_id": "b", "n": 0}])
    await events_up_to(stores, 2)
    tailing = run("tail", "orders/a", "--json", "--limit", "1")
    while not tailing.done():
        await orders.update_many({}, {"$inc": {"n": 1}})
        await asyncio.wait({tailing}, timeout=0.05)
    result = await tailing
    assert result.exit_code == 0, result
    [event] = map(json.loads, result.stdout.splitlines())
    assert (event["id"], event["op"], event["seq"] > 2) == ("a", "update", True)
    assert result.stderr.startswith(f"orders/a: events after {await log_of(stores)}:")


async def test_tail_says_when_it_can_not_continue_and_goes_on(orders: Any, stores: Stores, run: Run) -> None:
    await orders.insert_one({"_id": "a"})
    await events_up_to(stores, 1)
    result = await run("tail", "orders", "--json", "--from", "zzzzzzzz:7", "--limit", "1")
    assert result.exit_code == 0, result
    begun, told = result.stderr.splitlines()
    assert begun == "orders: events after zzzzzzzz:7"
    assert told.startswith("reset (unknown_log)")
    assert json.loads(result.stdout)["seq"] == 1


RULES = """
[shapes.my_cards]
collection = "orders"
where = { board = "$board" }
parameters = { board = { type = "int" } }
"""


async def test_tail_of_a_declared_shape_prints_what_enters_and_leaves(
    orders: Any, stores: Stores, run: Run, tmp_path: Path
) -> None:
    refused = await run("tail", "my_cards?board=int:7")
    assert (refused.exit_code, "`eventsync rules show` lists all" in refused.stderr) == (1, True)
    (tmp_path / "rules.toml").write_text(RULES)
    applied = await run("rules", "apply")
    assert applied.exit_code == 0, applied
    await orders.insert_many([{"_id": "a", "board": 7}, {"_id": "b", "board": 8}])
    (active,) = json.loads((await run("rules", "show", "--json")).stdout)["shapes"]
    wrong = await run("tail", "my_cards?board=7")
    assert (wrong.exit_code, "takes a value of type int" in wrong.stderr) == (1, True)
    tailing = run("tail", "my_cards?board=int:7", "--from", active["since"], "--limit", "4")
    await orders.update_one({"_id": "b"}, {"$set": {"board": 7}})
    await orders.update_one({"_id": "a"}, {"$set": {"board": 8, "n": 1}})
    await orders.update_one({"_id": "a"}, {"$set": {"n": 2}})
    await orders.delete_one({"_id": "b"})
    result = await tailing
    assert result.exit_code == 0, result
    log, _, since = active["since"].partition(":")
    assert re.fullmatch(rf"my_cards\?board=int:7: events after {log}\.[0-9a-f]{{8}}:{since}\n", result.stderr)
    lines = [line if line.startswith("    ") else line[23:] for line in result.stdout.splitlines()]
    assert [re.sub("^  [0-9]+", "", line) for line in lines] == [
        "  create  a  0 → 0  external",
        '    {"_id":"a","board":7}',
        "  enter   b  0 → 0  external",
        '    {"_id":"b","board":7}',
        "  leave   a  0 → 0  external",
        "  delete  b  0 → 0  external",
    ]


async def test_tail_goes_on_at_the_same_event_when_a_definition_changes(
    orders: Any, stores: Stores, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    applied = await run("rules", "apply")
    assert applied.exit_code == 0, applied
    await orders.insert_many([{"_id": name, "board": 7} for name in "abc"])
    await events_up_to(stores, 3)
    result = await run(
        "tail", "my_cards?board=int:7", "--json", "--from", f"{await log_of(stores)}.01234567:2", "--limit", "1"
    )
    assert result.exit_code == 0, result
    assert json.loads(result.stdout)["id"] == "c", "after event 2, and not again from the beginning"
    _, told = result.stderr.splitlines()
    assert told.startswith("reset (scope_changed)")
    assert told.endswith(":2")


async def test_a_snapshot_of_a_declared_shape_is_refused(orders: Any, run: Run) -> None:
    refused = await run("snapshot", "my_cards?board=int:7")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("eventsync: my_cards?board=int:7 is a declared shape; a snapshot is stored of")
    refused = await run("history", "my_cards?board=int:7")
    assert "my_cards?board=int:7 is a declared shape; give a document" in refused.stderr


async def test_tail_of_what_is_not_tracked_is_refused(orders: Any, run: Run) -> None:
    result = await run("tail", "lines")
    assert result.exit_code == 1
    assert "`eventsync track lines` changes that" in result.stderr


async def test_tail_before_any_worker_has_run_is_refused(run: Run) -> None:
    result = await run("tail", "orders")
    assert (result.exit_code, "is a worker running?" in result.stderr) == (1, True)


@pytest.mark.slow
async def test_ctrl_c_ends_a_tail_without_a_word(
    orders: Any, stores: Stores, environment: dict[str, str], tmp_path: Path
) -> None:
    await orders.insert_one({"_id": "a"})
    begin = f"{await log_of(stores)}:0"
    process = await start(environment, tmp_path, "tail", "orders", "--json", "--from", begin)
    assert process.stdout
    async with within(10):
        assert json.loads(await process.stdout.readline())["id"] == "a"
        process.send_signal(signal.SIGINT)
        rest, said = await process.communicate()
    assert (process.returncode, rest, said.decode()) == (0, b"", f"orders: events after {begin}\n")


async def test_untrack(orders: Any, run: Run, stores: Stores) -> None:
    assert (await run("untrack", "nothing")).stderr == "eventsync: not tracked: nothing\n"
    result = await run("untrack", "orders")
    assert (result.exit_code, result.stdout) == (0, "no longer tracked: orders\n")
    assert await stores.tracking.read() == []


async def test_reset_log_begins_a_new_one(orders: Any, run: Run, stores: Stores) -> None:
    old = await log_of(stores)
    result = await run("reset-log", "--yes", "--reason", "a drill")
    assert (result.exit_code, result.stdout) == (0, f"a new log follows {old} as soon as a worker leads\n")

    async def begun() -> bool | None:
        return True if await log_of(stores) != old else None

    await eventually(stores, "logs", begun)
    current = await stores.logs.current()
    assert current is not None
    assert (current.number, current.reason) == (2, "a drill")


async def test_reset_log_asks_first(run: Run) -> None:
    assert (await run("reset-log")).exit_code == 1
    assert "no log yet" in (await run("reset-log", "--yes")).stderr


async def test_snapshot_waits_for_what_was_written_before_it(orders: Any, run: Run, stores: Stores) -> None:
    await orders.insert_many([{"_id": f"order-{n}"} for n in range(20)])
    for shape, documents in (("orders", 20), ("orders/order-7", 1), ("orders/nobody", 0)):
        result = await run("snapshot", shape, "--json")
        assert result.exit_code == 0, result
        said = json.loads(result.stdout)
        made = await stores.snapshots.stored.newest(await log_of(stores), shape)
        assert made is not None
        assert said == {
            "shape": shape,
            "position": f"{made.log}:20",
            "id": made.id,
            "documents": documents,
            "bytes": made.bytes,
            "raw_bytes": made.raw_bytes,
        }
    result = await run("snapshot", "orders")
    assert " at " in result.stdout
    assert "20 documents" in result.stdout


async def test_snapshot_of_what_is_not_tracked_is_refused(orders: Any, run: Run, stores: Stores) -> None:
    result = await run("snapshot", "lines")
    assert result.exit_code == 1
    assert "'lines' is not tracked; `eventsync track lines`" in result.stderr
    assert await stores.snapshots.requests.unanswered() == []


async def test_snapshot_without_a_worker_says_so_and_asks_no_longer(run: Run, stores: Stores) -> None:
    now = (await stores.data.command("ping"))["operationTime"]
    log = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=now)
    await stores.tracking.ask(["orders"])
    await stores.tracking.activate(["orders"], log.id, Seq(0))
    result = await run("snapshot", "orders", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "no worker runs that can make the snapshot: start `eventsync worker`" in result.stderr
    assert await stores.snapshots.requests.unanswered() == []


async def test_snapshot_that_takes_too_long_stays_asked_for(run: Run, stores: Stores) -> None:
    now = (await stores.data.command("ping"))["operationTime"]
    log = await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=now)
    await stores.tracking.ask(["orders"])
    await stores.tracking.activate(["orders"], log.id, Seq(0))
    await stores.leases.acquire(SNAPSHOTTING, "a worker that is busy", 60)
    result = await run("snapshot", "orders", "--timeout", "0.1")
    assert result.exit_code == 1
    assert "no snapshot after 0.1 s; the request stands" in result.stderr
    assert [str(request.shape) for request in await stores.snapshots.requests.unanswered()] == ["orders"]
