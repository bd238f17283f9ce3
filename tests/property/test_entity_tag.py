"""An entity tag is the same wherever the state is: as read, as replayed from the log, as answered to a write."""

from __future__ import annotations

from typing import Any

import bson
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.entity_tag import digest_of
from eventsync.domain.patches.diff import diff
from eventsync.domain.replay import patched
from eventsync.domain.values.extended_json import CODEC, decode, parse_json, same, to_json
from eventsync.domain.values.type_hints import from_tree_with_hints, type_hints_of
from support.documents import pairs
from support.replica import to_tree

Strategy = st.SearchStrategy[Any]


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: reordered(item) for name, item in reversed(value.items())}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(st.data())
def test_it_is_the_same_as_read_and_as_replayed(documents: Strategy, data: st.DataObject) -> None:
    document = decode(bson.encode(data.draw(documents), codec_options=CODEC))
    assert digest_of(from_tree_with_hints(to_tree(document), type_hints_of(document))) == digest_of(document)
    assert digest_of(reordered(document)) == digest_of(document)


@given(pairs())
def test_it_tells_states_apart_exactly(pair: tuple[Any, Any]) -> None:
    before, after = (decode(bson.encode(document, codec_options=CODEC)) for document in pair)
    assert (digest_of(before) == digest_of(after)) is same(before, after)


@given(pairs())
def test_it_is_the_same_after_a_patch_that_was_stored(pair: tuple[Any, Any]) -> None:
    before, after = (decode(bson.encode(document, codec_options=CODEC)) for document in pair)
    patch = diff(before, after)
    stored = from_tree_with_hints(parse_json(to_json(patch)), type_hints_of(patch))
    assert digest_of(patched(before, stored)) == digest_of(after)
