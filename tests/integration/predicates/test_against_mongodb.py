"""Filters, routes and keys against MongoDB, which is asked for each answer.

`EVENTSYNC_TEST_PREDICATES=100000` asks for so many filters, and a tenth of that of routes, in a long run.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection
from unit.domain.predicates.tables import SMALL

from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.predicates.declarations import filter_of_tree
from eventsync.domain.predicates.definitions import define
from eventsync.domain.predicates.predicate import Predicate
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.values.extended_json import CODEC, RAW_CODEC, Document, decode, from_tree
from eventsync.errors import InvalidPredicate
from integration.predicates import random_filters
from support.mutants import ODD, framed

DATA = Path(__file__).parents[2] / "data"
FILTERS = int(os.environ.get("EVENTSYNC_TEST_PREDICATES", "600"))
ROUNDS = max(1, FILTERS // 2000)
"""Each with documents of its own."""

IS_LONG = FILTERS > 600
"""A long run draws one seed for each filter: it does not make failures smaller, and takes a fraction of the time."""

DOCUMENTS = 250


class Stored:
    """Documents in a collection, as MongoDB has them and as the server decodes them."""

    def __init__(self, collection: Collection[Any], documents: list[Any]) -> None:
        collection.drop()
        collection.insert_many(documents)
        self._collection = collection
        raw = collection.with_options(codec_options=RAW_CODEC).find()
        self.documents: list[Document] = [decode(document.raw) for document in raw]

    def found(self, query: Any) -> list[Any]:
        """Return the ids of the documents that MongoDB finds."""
        found = self._collection.find(query, {"_id": 1}, collation={"locale": "simple"})
        return sorted(document["_id"] for document in found)


@pytest.fixture(scope="module")
def collection(mongodb_uri: str) -> Iterator[Collection[Any]]:
    with MongoClient[Any](mongodb_uri) as client:
        database = client.get_database("test_predicates", codec_options=CODEC)
        yield database["documents"]
        client.drop_database(database)


@pytest.fixture(scope="module", params=range(ROUNDS))
def stored(collection: Collection[Any], request: pytest.FixtureRequest) -> Stored:
    choose = random.Random(request.param)
    return Stored(collection, [random_filters.document(choose, number) for number in range(DOCUMENTS)])


def matched(predicate: Predicate, stored: Stored) -> list[Any]:
    return sorted(document["_id"] for document in stored.documents if predicate.matches(document))


@contextmanager
def small_enough() -> Iterator[None]:
    """Reject a random filter that is refused for its size alone."""
    try:
        yield
    except InvalidPredicate as error:
        assume(not error.reason.startswith(("a filter has at most", "a filter nests at most")))
        raise


@settings(max_examples=max(FILTERS // ROUNDS, 1), deadline=None)
@given(st.randoms(use_true_random=IS_LONG))
def test_filters_match_what_mongodb_finds(stored: Stored, choose: random.Random) -> None:
    with small_enough():
        predicate = Predicate(random_filters.any_filter(choose))
    assert matched(predicate, stored) == stored.found(predicate.filter)


@settings(max_examples=max(FILTERS // ROUNDS // 6, 1), deadline=None)
@given(st.randoms(use_true_random=IS_LONG))
def test_a_key_of_a_route_is_among_those_of_the_documents_that_mongodb_finds(
    stored: Stored, choose: random.Random
) -> None:
    names = choose.sample(("p", "q", "l"), choose.choice((0, 1, 1, 1, 2)))
    with small_enough():
        definition = define("s", "c", random_filters.parametrised(choose, names), {name: ["any"] for name in names})
    keys = {document["_id"]: definition.keys(document) for document in stored.documents}
    for _ in range(4):
        values = {name: random_filters.value(choose) for name in names}
        if "l" in values:
            values["l"] = [random_filters.value(choose) for _ in range(choose.randrange(1, 4))]
        route = definition.bind(values)
        found = stored.found(route.filter)
        assert sorted(key for key, own in keys.items() if own & route.keys) == found, (definition.where, route)
        assert matched(Predicate(route.filter), stored) == found
        again = definition.bind_shape(RoutedShape.parse(str(route.shape)))
        assert (again.key, again.keys, str(again.shape)) == (route.key, route.keys, str(route.shape))


@pytest.mark.parametrize("name", ["predicates.json", "predicates-more.json"])
def test_the_tables_of_tricky_filters_have_the_answers_of_mongodb(collection: Collection[Any], name: str) -> None:
    table = json.loads((DATA / name).read_text())
    stored = Stored(collection, [from_tree(tree) for tree in table["documents"]])
    checked = 0
    for row in table["predicates"]:
        with suppress(InvalidPredicate):  # those that are refused are listed in the unit test
            predicate = Predicate(filter_of_tree(row["filter"]))
            assert stored.found(predicate.filter) == row["matches"] == matched(predicate, stored), row["filter"]
            checked += 1
    assert checked > 50


def test_the_answers_of_the_table_by_hand_are_those_of_mongodb(collection: Collection[Any]) -> None:
    documents = [document for _, matching, others in SMALL for document in (*matching, *others)]
    raw = [RawBSONDocument(encode({"_id": number, **document})) for number, document in enumerate(documents)]
    stored = Stored(collection, raw)
    start = 0
    for query, matching, others in SMALL:
        end = start + len(matching)
        found = stored.found(query)
        assert [number for number in found if start <= number < end + len(others)] == [*range(start, end)], query
        assert matched(Predicate(query), stored) == found
        start = end + len(others)


def test_values_that_no_driver_reads_match_as_mongodb_has_them(collection: Collection[Any]) -> None:
    # What the driver reads of these is another value, as `ordering` says.
    inexact = {"undefined", "a DBPointer", "a DBPointer that is not UTF-8", "a field name twice"}
    raw = [
        RawBSONDocument(framed(b"\x10_id\0" + number.to_bytes(4, "little"), element))
        for number, (name, element) in enumerate(ODD.items())
        if name not in inexact
    ]
    stored = Stored(collection, raw)
    queries: tuple[dict[str, Any], ...] = (
        {}, {"v": None}, {"v": {"$ne": 1}}, {"v": {"$gte": ""}}, {"v": {"$lt": "z"}}, {"v": {"$gte": b""}},
        {"v": {"$gte": 0}}, {"v": float("nan")}, {"v": {"$type": "string"}}, {"v": {"$type": ["object", "array"]}},
        {"v.s": {"$exists": False}}, {"v": {"$in": [0, "a", None]}}, {"v": {"$size": 6}}, {"v": {"$gt": {}}},
        {"v": {"$elemMatch": {"$gt": ""}}}, {"v": {"$mod": [2, 0]}}, {"twice": 6}, {"v": {"$gte": []}},
    )  # fmt: skip
    for query in queries:
        predicate = Predicate(query)
        assert matched(predicate, stored) == stored.found(query), query
