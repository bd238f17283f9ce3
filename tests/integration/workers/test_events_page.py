"""The examples of `docs/reference/events.md`, run by a worker."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bson import Decimal128, Int64

from eventsync.domain.stamp import Stamp
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.replay import assert_complete, tracked
from support.systems import running_worker

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "events.md").read_text()
SECTIONS = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = {title: re.findall(r"```json\n(.*?)```", text, re.DOTALL) for title, text in SECTIONS}

Make = Callable[[Client, Any], Awaitable[object]]


def stamp(version: int, number: int, *, deleted: bool = False) -> dict[str, Any]:
    return {"_sync": Stamp(version, f"op-{number}", "ann", deleted=deleted).stored()}


async def delete_by_api(client: Client, orders: Any) -> None:
    async with client.start_session() as session, await session.start_transaction():
        await orders.update_one({"_id": 42}, {"$set": stamp(1, 2, deleted=True)}, session=session)
        await orders.delete_one({"_id": 42}, session=session)


async def insert_and_delete(client: Client, orders: Any) -> None:
    await orders.insert_one({"_id": 43})
    await orders.delete_one({"_id": 43})


async def transact(client: Client, orders: Any) -> None:
    async with client.start_session() as session, await session.start_transaction():
        await orders.update_one({"_id": 42}, {"$set": {"n": 1}}, session=session)
        await orders.insert_one({"_id": 44}, session=session)


ADDRESS = {"street": "12 Long Street", "city": "Longtown", "country": "Farland"}
ORDER = {"_id": 42, "status": "new", "lines": [{"sku": "a1", "qty": 1}], "note": "ring twice", "address": ADDRESS}
SPLIT = [{"$set": {"status": "split", "lines": [], "parts": [1, 2]}}, {"$unset": "address"}]
DUE = {"total": Decimal128("9.90"), "due": datetime(2026, 12, 1, tzinfo=UTC)}
PUSH = {"$push": {"lines": {"sku": "b2", "qty": Int64(2)}}, "$unset": {"note": ""}}

WRITES: dict[str, Make] = {
    "Insert": lambda _, orders: orders.insert_one(ORDER),
    "Update through the API": lambda _, orders: orders.update_one(
        {"_id": 42}, {"$set": {"status": "paid"} | stamp(1, 1)}
    ),
    "Update from elsewhere": lambda _, orders: orders.update_one({"_id": 42}, PUSH),
    "Update that rewrites most of the document": lambda _, orders: orders.update_one({"_id": 42}, SPLIT),
    "Replacement": lambda _, orders: orders.replace_one({"_id": 42}, DUE),
    "Delete through the API": delete_by_api,
    "Delete from elsewhere": insert_and_delete,
    "Delete and create again": lambda _, orders: orders.insert_one({"_id": 42} | stamp(1, 3)),
    "Transaction": transact,
}


def steady(event: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run, but for its form."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["at"])
    if "txn" in event:
        assert re.fullmatch(r"[0-9a-f]{32}:\d+", event["txn"]["id"])
        event = event | {"txn": event["txn"] | {"id": "…"}}
    return event | {"at": "…"}


async def test_the_examples_are_what_a_worker_makes(client: Client, stores: Stores, settings: Settings) -> None:
    assert [title for title, blocks in EXAMPLES.items() if blocks] == list(WRITES)
    async with running_worker(settings):
        await stores.tracking.ask(["orders"])
        await tracked(stores, "orders")
        for write in WRITES.values():
            await write(client, stores.data["orders"])
        events = {event["seq"]: steady(event) for event in (await assert_complete(stores, "orders")).events}
    for blocks in EXAMPLES.values():
        for block in blocks:
            example = json.loads(block)
            assert events[example["seq"]] == steady(example)
