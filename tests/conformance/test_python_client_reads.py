"""Reads of the package `eventsync_client`: pages of the log, and differences."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conformance.declared import Rules
from eventsync.dev.mongod import free_port
from eventsync_client import (
    AsyncClient,
    Client,
    Difference,
    LogReset,
    Moment,
    OutcomeUnknown,
)
from support.peers.served import Served
from support.waiting import within


async def test_log_has_every_event(served: Served, key: str) -> None:
    async with AsyncClient(served.url) as client, within(30):
        orders, log = client.collection("orders"), client.log(f"orders/{key}")
        begin = await log.page()
        assert (begin.events, begin.live, begin.start) == ([], True, begin.end)
        waiting = asyncio.create_task(log.page(begin.end, wait=20))
        await orders.insert({"_id": key, "n": 1})
        first = await waiting
        assert [event["op"] for event in first.events] == ["create"]
        for n in (2, 3):
            await orders.patch(key, {"n": n})
        position, events = begin.end, list[dict[str, Any]]()
        while len(events) < 3:
            page = await log.page(position, limit=1, wait=5)
            assert (page.start, len(page.events) <= 1) == (position, True)
            position, events = page.end, events + page.events
        assert [event["version"] for event in events] == [1, 2, 3]


async def test_log_that_can_not_continue_says_where_it_can(served: Served, rules: Rules) -> None:
    async with AsyncClient(served.url) as client, within(30):
        for log in (client.log("orders"), client.log("my_cards", board="b")):
            with pytest.raises(LogReset) as reset:
                await log.page("zzzzzzzz:1")
            assert (reset.value.reason, reset.value.status) == ("unknown_log", 409)
            assert reset.value.oldest is not None
            assert reset.value.head is not None
            page = await log.page(reset.value.oldest)
            assert page.start == reset.value.oldest
            assert (await log.page(reset.value.head)).start == reset.value.head


async def test_request_that_is_not_repeated_fails_at_once(key: str) -> None:
    async with AsyncClient(f"http://127.0.0.1:{free_port()}") as client, within(10):
        with pytest.raises(OutcomeUnknown):
            await client.log("orders").page(repeat=False)
        orders = client.collection("orders")
        orders.repeat = False
        with pytest.raises(OutcomeUnknown):
            await orders.get(key)


async def test_difference_of_two_points(served: Served, key: str) -> None:
    async with AsyncClient(served.url) as client, within(30):
        orders = client.collection("orders")
        await orders.insert({"_id": key, "n": 1})
        await orders.patch(key, {"n": 2})
        await orders.delete(key)
        await client.barrier()
        pages = [page async for page in orders.history_pages(key)]
        seqs = [event["seq"] for page in pages for event in page.events]
        log = (await client.log("orders").page()).end.partition(":")[0]
        assert await orders.diff(key, 1, 2) == Difference(
            key,
            Moment(1, f"{log}:{seqs[0]}"),
            Moment(2, f"{log}:{seqs[1]}"),
            [{"op": "replace", "path": "/n", "value": 2}],
        )
        gone = await orders.diff(key, f"{log}:{seqs[1]}")
        assert (gone.end.version, gone.patch) == (None, [{"op": "remove", "path": ""}])


async def test_reads_without_a_loop(served: Served, key: str) -> None:
    """In a thread: the system under test runs in this loop."""

    def work() -> tuple[list[str], list[Any]]:
        with Client(served.url) as client:
            orders, log = client.collection("orders"), client.log(f"orders/{key}")
            begin = log.page().end
            orders.insert({"_id": key, "n": 1})
            orders.patch(key, {"n": 2})
            client.barrier()
            return [event["op"] for event in log.page(begin).events], orders.diff(key, 1, 2).patch

    async with within(30):
        ops, patch = await asyncio.to_thread(work)
    assert (ops, patch) == (["create", "update"], [{"op": "replace", "path": "/n", "value": 2}])
