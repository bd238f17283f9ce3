from __future__ import annotations

from eventsync.dev.demo_data import documents, first_id
from eventsync.domain.ids import format_id
from eventsync.domain.values.extended_json import Document, from_tree, parse_json


def test_the_demo_is_a_few_dozen_documents_with_ids_of_their_own() -> None:
    parsed: list[Document] = [from_tree(parse_json(line)) for line in documents()]
    assert len(parsed) == 40
    assert len({document["_id"] for document in parsed}) == 40
    assert format_id(parsed[0]["_id"]) == first_id()
