"""The invariant of redaction, over random documents and paths.

CI takes 60 pairs for each promise. `EVENTSYNC_REDACTION_PAIRS=20000` takes so many.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

import jsonpatch
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsync.domain.access.redaction import ANY, Redaction, is_index
from eventsync.domain.patches.diff import diff
from eventsync.domain.values.extended_json import Document, same, to_json
from support.documents import pairs
from support.replica import to_tree

_PAIRS = int(os.environ.get("EVENTSYNC_REDACTION_PAIRS", "60"))

_NAMES = ("a", "b", "c", "é", "~", "-", ANY)


@st.composite
def redactions(draw: st.DrawFn) -> Redaction:
    """Some hidden paths, of which the first name may be an index, and sometimes a white list."""
    rest = st.lists(st.sampled_from(_NAMES), max_size=3)
    path = st.tuples(st.sampled_from((*_NAMES, "0", "$a")), rest).map(lambda both: (both[0], *both[1]))
    hide = draw(st.lists(path, max_size=4))
    fields = draw(st.none() | st.none() | st.lists(st.sampled_from(_NAMES), max_size=4))
    return Redaction(hide, fields)


@settings(max_examples=_PAIRS)
@given(pairs(), redactions())
def test_a_redacted_patch_leads_from_one_stripped_document_to_the_other(
    pair: tuple[Document, Document], redaction: Redaction
) -> None:
    before, after = pair
    kept = copy.deepcopy(pair)
    patch = diff(before, after)
    redacted = redaction.redact(patch)
    assert same(jsonpatch.apply_patch(redaction.strip(before), redacted), redaction.strip(after))
    assert same([before, after], list(kept)), "the documents were changed"


@settings(max_examples=_PAIRS)
@given(pairs(), redactions())
def test_json_is_redacted_like_the_values_it_stands_for(pair: tuple[Document, Document], redaction: Redaction) -> None:
    before, after = pair
    assert redaction.strip(to_tree(before)) == to_tree(redaction.strip(before))
    redacted = redaction.redact(json.loads(to_json(diff(before, after))))
    assert jsonpatch.apply_patch(to_tree(redaction.strip(before)), redacted) == to_tree(redaction.strip(after))


@settings(max_examples=_PAIRS)
@given(pairs(), redactions())
def test_stripping_twice_changes_nothing_more_and_nothing_hidden_stays(
    pair: tuple[Document, Document], redaction: Redaction
) -> None:
    stripped = redaction.strip(pair[0])
    assert same(redaction.strip(stripped), stripped)
    for path in _paths(stripped):
        assert not any(is_below(path, hidden) for hidden in redaction.hide), path
        assert redaction.fields is None or path[0] in {*redaction.fields, "_id"}


@settings(max_examples=_PAIRS)
@given(redactions(), redactions(), pairs())
def test_a_union_hides_what_either_hides(one: Redaction, other: Redaction, pair: tuple[Document, Document]) -> None:
    both = Redaction.union([one, other])
    assert same(both.strip(pair[0]), one.strip(other.strip(pair[0])))
    assert one.is_within(both)
    if one.is_within(other):
        assert same(other.strip(pair[0]), both.strip(pair[0]))


def _paths(value: Any, before: tuple[str, ...] = ()) -> Any:
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for name, item in items:
        yield (*before, str(name))
        yield from _paths(item, (*before, str(name)))


def is_below(path: tuple[str, ...], hidden: tuple[str, ...], *, first: bool = True) -> bool:
    """Return True if a path of a document is hidden: written as the definition says, and not as the code does it."""
    if not hidden:
        return True
    if not path:
        return False
    taken = hidden[0] in (path[0], ANY) and is_below(path[1:], hidden[1:], first=False)
    return taken or (not first and is_index(path[0]) and is_below(path[1:], hidden, first=False))
