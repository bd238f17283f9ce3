from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
from bson import Int64
from bson.timestamp import Timestamp

from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.stores.log.events import NewEvent, _row
from eventsync.stores.log.stored_event import StoredEvent, UnpackedText, stored_event

LOG = LogId("aaaa")


def row(body: bytes, transaction: TransactionPart | None = None) -> dict[str, Any]:
    event = StoredEvent(Seq(7), "orders", IdText("int:1"), body, transaction)
    made = _row(LOG, NewEvent(event, 3, "82AA", Timestamp(5, 1)))
    assert stored_event(made) == event
    return made


def test_a_row_has_the_fields_of_its_event() -> None:
    stored = row(b'{"seq":7}')
    assert stored == {
        "_id": {"l": "aaaa", "n": 7}, "t": "82AA", "s": Timestamp(5, 1), "c": "orders", "i": "int:1", "v": 3,
        "b": '{"seq":7}',
    }  # fmt: skip
    assert isinstance(stored["_id"]["n"], Int64)
    assert isinstance(stored["v"], Int64)
    assert row(b"{}", TransactionPart("s:1", 1, 2))["g"] == {"id": "s:1", "n": 1, "of": 2}


@pytest.mark.parametrize("size", [4 * 1024 * 1024, 4 * 1024 * 1024 + 1])
def test_only_a_large_body_is_stored_compressed(size: int) -> None:
    stored = row(b"{" + b"x" * (size - 2) + b"}")["b"]
    assert isinstance(stored, str if size <= 4 * 1024 * 1024 else bytes)


def test_a_reader_may_stop_where_no_transaction_is_open() -> None:
    def closes(transaction: TransactionPart | None) -> bool:
        return StoredEvent(Seq(1), "orders", IdText("1"), b"", transaction).closes

    assert closes(None)
    assert not closes(TransactionPart("s:1", 1, 2))
    assert closes(TransactionPart("s:1", 2, 2))


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 3_000_000])
@pytest.mark.parametrize("plain", [True, False])
def test_a_packed_body_is_unpacked_to_what_it_was(size: int, plain: bool) -> None:
    body = b"x" * size if plain else random.Random(size).randbytes(size)
    assert UnpackedText.of(zlib.compress(body, 1)).text == body


def test_a_damaged_packed_body_is_refused() -> None:
    packed = zlib.compress(b"x" * 3_000_000, 1)
    for damaged in (b"", packed[:-1], packed[: len(packed) // 2], b"\0" + packed):
        with pytest.raises(zlib.error):
            UnpackedText.of(damaged)
