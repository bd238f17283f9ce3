from __future__ import annotations

from typing import Any

import bson
import pytest
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.values.extended_json import CODEC, RAW_CODEC
from eventsync_workers.sequencing.transactions import TransactionAssembler, is_document_change, transaction_of
from support.changes import SESSION, change, inserted


def at(seconds: int) -> Timestamp:
    return Timestamp(seconds, 1)


def test_a_transaction_is_named_by_session_and_number() -> None:
    assert transaction_of(inserted(txn=7)) == f"{SESSION.hex}:7"
    assert transaction_of(inserted()) is None
    assert transaction_of({"clusterTime": at(1), "lsid": {"id": SESSION}}) is None


def test_transaction_of_accepts_a_change_that_is_a_view() -> None:
    """As it does with a large one."""
    view = RawBSONDocument(memoryview(bytes(inserted(txn=7).raw)), RAW_CODEC)
    assert transaction_of(view) == f"{SESSION.hex}:7"


def test_a_document_with_a_field_txn_number_is_no_transaction() -> None:
    assert transaction_of(change("insert", fullDocument={"_id": 1, "txnNumber": Int64(5)})) is None


@pytest.mark.parametrize("kind", ["insert", "update", "replace", "delete"])
@pytest.mark.parametrize(
    "first", [{}, {"fullDocument": {"operationType": "drop"}}], ids=["as MongoDB", "another order"]
)
def test_is_document_change_accepts_changes_of_documents(kind: str, first: dict[str, Any]) -> None:
    made = first | dict(change(kind, fullDocument={"_id": 1}))
    assert is_document_change(RawBSONDocument(bson.encode(made, codec_options=CODEC), RAW_CODEC))


@pytest.mark.parametrize("kind", ["drop", "rename", "dropDatabase", "invalidate", "create", "inserted"])
def test_is_document_change_refuses_changes_of_collections(kind: str) -> None:
    assert not is_document_change(change(kind, fullDocument={"operationType": "insert"}))


def test_changes_outside_a_transaction_are_whole_at_once() -> None:
    changes = [inserted(1), inserted(2)]
    assembler = TransactionAssembler()
    assert assembler.feed(changes, at(1)) == [[changes[0]], [changes[1]]]
    assert not assembler.is_open


def test_a_transaction_is_open_until_the_stream_has_passed_it() -> None:
    assembler = TransactionAssembler()
    one, two = inserted(1, time=5, txn=1), inserted(2, time=5, txn=1)
    assert assembler.feed([one], at(5)) == []
    assert assembler.is_open
    assert assembler.feed([two], at(5)) == []
    assert assembler.feed([], at(5)) == []
    assert assembler.bytes == len(one.raw) + len(two.raw)
    assert assembler.feed([], at(6)) == [[one, two]]
    assert not assembler.is_open
    assert assembler.bytes == 0


def test_a_change_of_another_key_ends_a_transaction() -> None:
    first, second = inserted(1, time=5, txn=1), inserted(2, time=5, txn=2)
    alone, third = inserted(3, time=5), inserted(4, time=5, txn=3)
    assembler = TransactionAssembler()
    assert assembler.feed([first, second, alone, third], at(5)) == [[first], [second], [alone]]
    assert assembler.is_open
    assert assembler.feed([alone], at(5)) == [[third], [alone]]


def test_a_batch_that_was_read_past_the_transaction_ends_it_at_once() -> None:
    assembler = TransactionAssembler()
    one = inserted(1, time=5, txn=1)
    assert assembler.feed([one], at(6)) == [[one]]


def test_the_same_number_in_another_session_is_another_transaction() -> None:
    one = inserted(1, time=5, txn=1)
    other = change("insert", key=2, time=6, fullDocument={"_id": 2}, lsid={"id": SESSION.__class__(int=1)}, txnNumber=1)
    assembler = TransactionAssembler()
    assert assembler.feed([one, other], at(7)) == [[one], [other]]
