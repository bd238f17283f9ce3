"""The stored document is exactly the one that the edit made, in value and BSON type, for any two documents."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from bson.int64 import Int64
from hypothesis import HealthCheck, given, settings

from eventsync.domain.stamp import FIELD
from eventsync.domain.values.extended_json import Document, same
from eventsync.nodestorage import Author, NodeStorage
from support.documents import pairs


@pytest.mark.slow
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(pair=pairs())
async def test_the_stored_document_is_the_result_of_the_edit(
    plain: NodeStorage, stored: Any, pair: tuple[Document, Document]
) -> None:
    before, after = pair
    key = secrets.token_hex(8)
    author = Author("tester", "operation")
    await plain.create("documents", {"_id": key, **before}, author=author)
    assert same(await stored("documents", key), {"_id": key, **before, FIELD: stamp(1)})
    result = await plain.find_one_and_update("documents", key, lambda _: {"_id": key, **after}, author=author)
    version = 1 if same(before, after) else 2
    assert same(await stored("documents", key), {"_id": key, **after, FIELD: stamp(version)})
    assert same(result.document, {"_id": key, **after})
    assert result.version == version
    assert (result.patch == []) == (version == 1)


def stamp(version: int) -> Document:
    return {"v": Int64(version), "op": "operation", "by": "tester"}
