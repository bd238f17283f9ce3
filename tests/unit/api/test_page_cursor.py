"""Cursors of listings in id order."""

from __future__ import annotations

import pytest

from eventsync.api.documents import PageCursor
from eventsync.errors import Malformed, TooComplex


def test_a_cursor_skips_a_bounded_number_of_documents() -> None:
    """A document whose id no text names has None here. MongoDB reads all of those that a page skips."""
    cursor = PageCursor("a").moved([None] * 10_000)
    assert str(cursor) == 'ejson:[10000,"a"]'
    assert PageCursor.parse(str(cursor)) == cursor
    assert str(cursor.moved([None, "b"])) == "b"
    with pytest.raises(TooComplex, match=r"over 10000 documents .* sort=_id"):
        cursor.moved([None])
    for made_up in ('ejson:[10001,"a"]', "ejson:[2147483647,null]", "ejson:[-1,null]", "ejson:[true,null]"):
        with pytest.raises(Malformed):
            PageCursor.parse(made_up)
