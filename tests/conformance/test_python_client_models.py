"""Models of pydantic in the package `eventsync_client`, in place of the documents of a shape."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128, ObjectId
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conformance.declared import Rules
from eventsync_client import AsyncClient, Client, InvalidDocument, ModelChange
from support.peers.served import Served
from support.waiting import within


class Card(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: str = Field(alias="_id")
    board: str
    n: int = 0


async def test_documents_are_models(served: Served, rules: Rules, key: str) -> None:
    async with AsyncClient(served.url) as client, within(30):
        cards = client.collection("cards")
        await cards.insert({"_id": key, "board": key, "n": 1})
        await client.barrier()
        shape = await client.shape("my_cards", board=key, model=Card).live()
        assert dict(shape.documents) == {key: Card(_id=key, board=key, n=1)}
        first = shape.documents[key]
        await cards.insert({"_id": f"{key}-2", "board": key})
        await client.barrier()
        assert len(shape.documents) == 2
        assert shape.documents[key] is first, "a document that has not changed keeps its model"
        await cards.patch(key, {"n": 2})
        await client.barrier()
        assert (shape.documents[key].n, first.n) == (2, 1)
        assert shape.documents.invalid() == {}
        assert dict(client.shape("my_cards", board=key).documents) == {
            key: {"_id": key, "board": key, "n": 2},
            f"{key}-2": {"_id": f"{key}-2", "board": key},
        }


class Dated(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    id: ObjectId = Field(alias="_id")
    board: str
    when: datetime
    price: Decimal128


async def test_models_get_the_types_of_bson(served: Served, rules: Rules, key: str) -> None:
    async with AsyncClient(served.url, decode="bson") as client, within(30):
        id_, when, price = ObjectId(), datetime(2026, 12, 1, tzinfo=UTC), Decimal128("1.10")
        await client.collection("cards").insert({"_id": id_, "board": key, "when": when, "price": price})
        await client.barrier()
        shape = await client.shape("my_cards", board=key, model=Dated).live()
        (dated,) = shape.documents.values()
        assert (dated.id, dated.when, dated.price) == (id_, when, price)


async def test_document_that_its_model_refuses_is_told(served: Served, rules: Rules, key: str) -> None:
    async with AsyncClient(served.url) as client, within(30):
        cards = client.collection("cards")
        wrong = {"_id": key, "board": key, "n": "many"}
        await cards.insert({"_id": f"{key}-good", "board": key})
        await cards.insert(wrong)
        await client.barrier()
        shape = await client.shape("my_cards", board=key, model=Card).live()
        assert sorted(shape.documents) == [key, f"{key}-good"]
        assert shape.documents[f"{key}-good"].n == 0
        with pytest.raises(InvalidDocument, match=f"{key} of my_cards") as refused:
            shape.documents[key]
        with pytest.raises(InvalidDocument):
            list(shape.documents.values())
        assert (refused.value.doc, refused.value.version, refused.value.id) == (wrong, 1, key)
        assert isinstance(refused.value.__cause__, ValidationError)
        assert [*shape.documents.invalid()] == [key]


async def test_changes_tell_of_what_is_not_valid(served: Served, rules: Rules, key: str) -> None:
    """None is left out: each comes, and says so itself."""
    async with AsyncClient(served.url) as client, within(30):
        cards = client.collection("cards")
        shape = client.shape("my_cards", board=key, model=Card)
        await shape.live()
        changes = shape.changes()
        await cards.insert({"_id": key, "board": key, "n": 1})
        created = await anext(changes)
        assert isinstance(created, ModelChange)
        assert (created.kind, created.before, created.after) == ("create", None, Card(_id=key, board=key, n=1))
        assert created.invalid is None
        await cards.patch(key, {"n": "many"})
        broken = await anext(changes)
        assert (broken.kind, broken.before) == ("update", Card(_id=key, board=key, n=1))
        assert broken.invalid is not None
        assert broken.invalid.doc["n"] == "many"
        with pytest.raises(InvalidDocument):
            _ = broken.after
        await cards.patch(key, {"n": 2})
        mended = await anext(changes)
        assert (mended.invalid, mended.after) == (None, Card(_id=key, board=key, n=2))
        with pytest.raises(InvalidDocument):
            _ = mended.before
        await cards.delete(key)
        deleted = await anext(changes)
        assert (deleted.kind, deleted.after, deleted.invalid) == ("delete", None, None)
        await changes.aclose()


async def test_models_without_a_loop(served: Served, rules: Rules, key: str) -> None:
    """In a thread: the system under test runs in this loop."""

    def work() -> dict[str, Any]:
        with Client(served.url) as client:
            client.collection("cards").insert({"_id": key, "board": key, "n": "many"})
            client.barrier()
            shape = client.shape("my_cards", board=key, model=Card).live()
            for change in shape.changes():
                assert change.invalid is not None
                with pytest.raises(InvalidDocument):
                    _ = change.after
                break
            return {name: error.doc for name, error in shape.documents.invalid().items()}

    async with within(30):
        assert await asyncio.to_thread(work) == {key: {"_id": key, "board": key, "n": "many"}}
