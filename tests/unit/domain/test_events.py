from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from bson import ObjectId

from eventsync.domain.events import Event, TransactionPart, place, timestamp
from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq

AT = datetime(2026, 11, 23, 5, 22, 46, 405_999, tzinfo=UTC)


def event(**fields: Any) -> Event:
    given: dict[str, Any] = {
        "collection": "orders",
        "id": IdText("42"),
        "op": "update",
        "base": 6,
        "version": 7,
    } | fields
    return Event(at=AT, **given)


def test_the_body_of_an_update_is_the_one_of_the_protocol() -> None:
    patch = [{"op": "replace", "path": "/total", "value": 5}]
    body = place(event(patch=patch, op_id="o1", by="ann").encode(), Seq(129), None)
    assert body == (
        b'{"seq":129,"collection":"orders","id":"42","op":"update","base":6,"version":7,'
        b'"patch":[{"op":"replace","path":"/total","value":5}],"at":"2026-11-23T05:22:46.405Z","op_id":"o1","by":"ann"}'
    )


def test_a_change_from_elsewhere_says_so_and_names_nobody() -> None:
    body = json.loads(place(event(patch=[]).encode(), Seq(1), None))
    assert body["external"] is True
    assert body["patch"] == []
    assert not {"op_id", "by", "txn", "doc"} & body.keys()


def test_create_and_replace_carry_the_document() -> None:
    document = {"_id": ObjectId("0123456789abcdef01234567"), "n": math.nan, "é": "\u2028"}
    body = json.loads(place(event(op="create", document=document, op_id="o", by=None).encode(), Seq(1), None))
    assert body["doc"] == {
        "_id": {"$oid": "0123456789abcdef01234567"},
        "n": {"$numberDouble": "NaN"},
        "é": "\u2028",
    }
    assert body["by"] is None
    assert "external" not in body


def test_delete_carries_neither() -> None:
    assert not {"doc", "patch"} & json.loads(place(event(op="delete").encode(), Seq(1), None)).keys()


def test_the_mark_of_a_transaction_is_added_at_the_end() -> None:
    encoded = event(op="delete").encode()
    body = place(encoded, Seq(2**62), TransactionPart("s:1", 2, 3))
    assert body.endswith(b',"txn":{"id":"s:1","n":2,"of":3}}')
    assert json.loads(body)["seq"] == 2**62
    assert json.loads(body)["txn"] == {"id": "s:1", "n": 2, "of": 3}


@pytest.mark.parametrize("text", ['quote " and \\', "\0\n", "é/~", "</script>"])
def test_ids_and_names_are_escaped(text: str) -> None:
    body = json.loads(place(event(id=IdText(text), collection=text, op_id=text, by=text).encode(), Seq(1), None))
    assert body["id"] == body["collection"] == body["op_id"] == body["by"] == text


def test_at_has_always_three_digits_of_milliseconds() -> None:
    assert timestamp(datetime(2026, 1, 2, tzinfo=UTC)) == "2026-01-02T00:00:00.000Z"
    assert timestamp(AT) == "2026-11-23T05:22:46.405Z"
    assert timestamp(datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == "2025-12-31T23:00:00.000Z"
