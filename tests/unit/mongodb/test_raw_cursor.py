"""Answers of `find` are cut up as PyMongo would have taken them apart."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.mongodb.raw_cursor import _cut_up


def cut_up(cursor: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    documents, number = _cut_up(RawBSONDocument(bson.encode(cursor), RAW_CODEC))
    assert all(type(document) is bytes for document in documents)
    return [bson.decode(document) for document in documents], number


@pytest.mark.parametrize("batch", ["firstBatch", "nextBatch"])
@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 99, 100, 101, 1000, 1001, 10_001])
def test_every_document_comes_whole(batch: str, count: int) -> None:
    documents = [{"_id": n, "text": "x" * (n % 7)} for n in range(count)]
    assert cut_up({batch: documents, "id": Int64(-7), "ns": "shop.orders"}) == (documents, -7)


@pytest.mark.parametrize(
    "order",
    [("id", "ns", "firstBatch"), ("firstBatch", "ns", "id"), ("partialResultsReturned", "firstBatch", "id")],
)
def test_the_order_of_an_answer_is_not_relied_on(order: tuple[str, ...]) -> None:
    documents = [{"_id": n} for n in range(12)]
    fields = {"firstBatch": documents, "id": Int64(2**62), "ns": "shop.orders", "partialResultsReturned": True}
    assert cut_up({name: fields[name] for name in order}) == (documents, 2**62)


@given(st.lists(st.dictionaries(st.text("abé", max_size=3), st.binary() | st.text("\0é$") | st.integers(-9, 9))))
def test_any_documents_are_cut_exactly(documents: list[dict[str, Any]]) -> None:
    assert cut_up({"firstBatch": documents, "id": Int64(0), "ns": "a.b"}) == (documents, 0)
