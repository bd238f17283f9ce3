from __future__ import annotations

import pytest

from eventsync.domain.names import MAX_COLLECTION_BYTES, check_collection, not_readable, not_tracked
from eventsync.errors import Malformed


def test_the_error_of_an_untracked_collection_names_the_remedy() -> None:
    assert not_tracked("orders").message.endswith("`eventsync track orders` changes that")
    assert not_tracked("my orders").message.endswith("`eventsync track 'my orders'` changes that")
    assert not_tracked("*").message == "the collection '*' is not tracked; there is no wildcard: name one collection"


def test_the_text_for_those_who_may_not_know_names_no_remedy() -> None:
    assert not_readable("orders") == "there is no collection 'orders' that you may read"


@pytest.mark.parametrize(
    "name",
    [None, "", "system.profile", ".a", "a.", "a$", "a/b", "a?b", "a\0b", "a\nb", "\u200b", "x" * 121, "é" * 61],
)
def test_names_that_no_tracked_collection_can_have_are_refused(name: object) -> None:
    with pytest.raises(Malformed):
        check_collection(name)


@pytest.mark.parametrize("name", ["a", "a.b", "with space", "-", "é", "systems", "x" * MAX_COLLECTION_BYTES])
def test_names_that_a_collection_can_have(name: str) -> None:
    assert check_collection(name) == name
