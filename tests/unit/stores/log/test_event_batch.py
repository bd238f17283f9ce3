"""Rows are recognized by their bytes, and read as decoding them reads them."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.events import TransactionPart
from eventsync.domain.positions import LogId, Seq
from eventsync.stores.log.event_batch import EventBatch, EventBatchBuilder

LOG = LogId("k3f9ab2c")


def key(seq: int, log: str = LOG) -> dict[str, Any]:
    return {"l": log, "n": Int64(seq)}


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.text(max_size=30).map("{{{}}}".format)), max_size=5))
def test_plain_rows_are_read_as_decoding_reads_them(rows: list[tuple[int, str]]) -> None:
    made = EventBatchBuilder(LOG)
    assert made.add([bson.encode({"_id": key(seq), "b": body}) for seq, body in rows]) == []
    assert made.take() == EventBatch([Seq(seq) for seq, _ in rows], [body.encode() for _, body in rows], {})


@pytest.mark.parametrize(
    "row",
    [
        {"_id": key(7), "b": "{}", "g": {"id": "s:1", "n": 1, "of": 2}},
        {"_id": key(7), "b": b"packed"},
        {"_id": key(7), "b": {"v": "aa", "of": 2, "sha256": b"x" * 32}},
        {"_id": key(7), "b": "junk"},
        {"_id": key(7), "b": "{"},
        {"_id": key(7), "b": ""},
        {"_id": key(7), "b": None},
        {"_id": key(7)},
        {"_id": key(7), "c": "orders", "b": "{}"},
        {"_id": key(7, "k3f9ab2d"), "b": "{}"},
        {"_id": key(7, "k3f9ab2cc"), "b": "{}"},
        {"_id": {"n": Int64(7), "l": LOG}, "b": "{}"},
        {"_id": {"l": LOG, "n": 7}, "b": "{}"},
        {"_id": {"l": LOG, "n": Int64(7), "x": 1}, "b": "{}"},
        {},
    ],
    ids=str,
)
def test_a_row_of_another_form_is_given_back(row: dict[str, Any]) -> None:
    made = EventBatchBuilder(LOG)
    before, after = {"_id": key(6), "b": "{6}"}, {"_id": key(8), "b": "{8}"}
    assert made.add([bson.encode(before)]) == []
    others = made.add([bson.encode(row), bson.encode(after)])
    assert others == [(1, bson.encode(row))]
    transaction = TransactionPart("s:1", 1, 2)
    made.put(1, Seq(7), b"seven", transaction)
    assert made.bytes > 0
    assert made.take() == EventBatch([Seq(6), Seq(7), Seq(8)], [b"{6}", b"seven", b"{8}"], {1: transaction})
    assert (made.bytes, made.take()) == (0, EventBatch([], [], {}))
