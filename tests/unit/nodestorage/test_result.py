"""Results survive their record with every BSON type."""

from __future__ import annotations

from datetime import UTC, datetime

from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId

from app.domain.diff import Operation
from app.domain.ids import IdText
from app.domain.values import same
from app.nodestorage import WriteResult
from app.nodestorage.result import decode_results, encode_results


def test_results_come_back_as_they_were_but_replayed() -> None:
    document = {
        "_id": ObjectId("65a000000000000000000001"), "n": Int64(1), "f": 1.0, "d": Decimal128("1.0"),
        "a.b": {"$x": None},
        "at": datetime(2026, 11, 23, 5, 22, 46, 405000, UTC),
    }  # fmt: skip
    patch: list[Operation] = [
        {"op": "replace", "path": "/a.b/$x", "value": Int64(1)},
        {"op": "remove", "path": "/gone"},
    ]
    results = [
        WriteResult(IdText("65a000000000000000000001"), 2**40, document, patch),
        WriteResult(IdText("x"), 1, None, [], created=True),
    ]
    first, second = decode_results(encode_results(results))
    assert (first.id, first.version, first.created, first.replayed) == (results[0].id, 2**40, False, True)
    assert same(first.document, document)
    assert same(first.patch, patch)
    assert second == WriteResult(IdText("x"), 1, None, [], created=True, replayed=True)
