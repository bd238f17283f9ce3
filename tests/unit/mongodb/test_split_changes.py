from __future__ import annotations

import itertools
from typing import Any

import bson
import pytest
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.mongodb.split_changes import FragmentMissing, Fragments
from support.changes import change, inserted

IMAGES: dict[str, Any] = {"fullDocument": {"_id": 7, "n": Int64(2)}, "fullDocumentBeforeChange": {"_id": 7, "n": 2}}
WHOLE = change("update", key=7, txn=3, **IMAGES)


def raw(fields: dict[str, Any]) -> RawBSONDocument:
    return RawBSONDocument(bson.encode(fields, codec_options=RAW_CODEC), RAW_CODEC)


def split(*cuts: int) -> list[RawBSONDocument]:
    """`WHOLE` as a server splits it, before these of its fields."""
    fields = [(name, value) for name, value in WHOLE.items() if name != "_id"]
    edges = [0, *cuts, len(fields)]
    parts = [dict(fields[start:end]) for start, end in itertools.pairwise(edges)]
    return [
        raw({"_id": {"_data": f"token {number}"}, "splitEvent": {"fragment": number, "of": len(parts)}} | part)
        for number, part in enumerate(parts, start=1)
    ]


def test_a_whole_change_is_passed_on_as_it_is() -> None:
    fragments, changes = Fragments(), [inserted(1), inserted(2)]
    assert all(one is other for one, other in zip(fragments.joined(changes), changes, strict=True))
    assert not fragments.pending


@pytest.mark.parametrize("cuts", [(3,), (2, 6), (1, 2, 3, 4)])
def test_a_split_change_comes_whole_with_the_last_ones_token(cuts: tuple[int, ...]) -> None:
    (whole,) = Fragments().joined(split(*cuts))
    assert bson.decode(whole.raw) == bson.decode(WHOLE.raw) | {"_id": {"_data": f"token {len(cuts) + 1}"}}
    assert type(whole) is RawBSONDocument
    assert whole["fullDocument"].raw == WHOLE["fullDocument"].raw


def test_fragments_are_recognized_in_views_as_well() -> None:
    """As it does with large ones, and fragments are."""
    views = [RawBSONDocument(memoryview(bytes(part.raw)), RAW_CODEC) for part in split(3)]
    (whole,) = Fragments().joined(views)
    assert bson.decode(whole.raw)["_id"] == {"_data": "token 2"}


def test_the_fragments_may_come_in_several_batches_between_others() -> None:
    fragments, (one, two, three) = Fragments(), split(2, 6)
    before, after = inserted("before"), inserted("after")
    assert fragments.joined([before, one]) == [before]
    assert fragments.pending
    assert fragments.joined([]) == []
    assert fragments.joined([two]) == []
    assert fragments.pending
    whole, last = fragments.joined([three, after])
    assert (whole["documentKey"]["_id"], last) == (7, after)
    assert not fragments.pending


@pytest.mark.parametrize("order", [(1,), (0, 2), (0, 0), (0, None)])
def test_a_change_whose_fragments_do_not_follow_on_each_other_is_refused(order: tuple[int | None, ...]) -> None:
    parts = split(2, 6)
    with pytest.raises(FragmentMissing):
        Fragments().joined([inserted() if index is None else parts[index] for index in order])
