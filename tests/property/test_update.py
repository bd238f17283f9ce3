"""The minimal update, carried out by a small model of MongoDB, gives the document exactly."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings

from eventsync.domain.patches.minimal_update import minimal_update
from eventsync.domain.values.extended_json import Document, same
from support.documents import pairs


@settings(max_examples=100)
@given(pairs())
def test_the_update_gives_the_document(pair: tuple[Document, Document]) -> None:
    before, after = pair
    update = minimal_update(before, after)
    if update is None:
        assert any(not name or "." in name or name.startswith("$") for name in before.keys() | after.keys())
        return
    assert (update == {}) == same(before, after)
    assert same(_updated(before, update), after)


def _updated(document: Document, update: dict[str, dict[str, Any]]) -> Document:
    """Return a document after a `$set` and an `$unset` as MongoDB does them. Fail where it would refuse or misread."""
    result = copy.deepcopy(document)
    paths = [path for group in update.values() for path in group]
    for path in paths:
        assert not any(other != path and other.startswith(f"{path}.") for other in paths), "MongoDB refuses these"
    for path, value in update.get("$set", {}).items():
        container, last = _resolved(result, path)
        if isinstance(container, list):
            assert int(last) < len(container)
            container[int(last)] = value
        else:
            container[last] = value
    for path in update.get("$unset", {}):
        container, last = _resolved(result, path)
        assert isinstance(container, dict), "an unset item would become null"
        del container[last]
    return result


def _resolved(document: Document, path: str) -> tuple[Any, str]:
    *parents, last = path.split(".")
    container: Any = document
    for name in parents:
        assert name
        assert not name.startswith("$")
        container = container[int(name)] if isinstance(container, list) else container[name]
    assert last
    assert not last.startswith("$")
    return container, last
