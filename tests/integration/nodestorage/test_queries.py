"""Ad hoc reads: filters and orders, a page at a time, against MongoDB's own answers."""

from __future__ import annotations

import random
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument

from eventsync.domain.predicates.predicate import Predicate
from eventsync.domain.values.extended_json import CODEC, RAW_CODEC
from eventsync.errors import IndexNeeded, InvalidPredicate, Malformed, TooComplex, TooLarge, Unavailable
from eventsync.nodestorage import BY_ID, NodeStorage, PageEnd, Sort, WritePolicy
from integration.predicates import random_filters
from support.mutants import ODD, framed

EVERYTHING = 2**40


async def all_pages(storage: NodeStorage, limit: int, sort: Sort = BY_ID, where: Any = None) -> list[Any]:
    found: list[Any] = []
    after = None
    while True:
        page = await storage.query(
            "docs",
            where=None if where is None else Predicate(where),
            sort=sort,
            after=after,
            limit=limit,
            max_bytes=EVERYTHING,
        )
        assert len(page.nodes) <= limit
        found += [node.id for node in page.nodes]
        if page.end is None:
            return found
        after = PageEnd.parse(str(page.end), sort)


@pytest.mark.parametrize("text", ["a", "-a", "a,-b", "-b,a", "a.b,-_id", "-a.b,b", "_id", "-_id"])
async def test_pages_in_any_order_have_each_document_once(outside: Any, storage: NodeStorage, text: str) -> None:
    choose = random.Random(text)
    documents = [random_filters.document(choose, number) for number in range(300)]
    # Two arrays can't both be in an order.
    for document in documents:
        if "," in text and isinstance(document.get("a"), list):
            document.pop("b", None)
    collection = outside.get_collection("docs", codec_options=CODEC)
    await collection.insert_many(documents)
    sort = Sort.parse(text)
    if "a" in text:
        await collection.create_index(list(sort.fields))
    expected = [
        document["_id"]
        async for document in collection.find({}, {"_id": 1}, collation={"locale": "simple"}).sort(list(sort.fields))
    ]
    assert len(expected) == len(documents)
    assert await all_pages(storage, 7, sort) == expected


@pytest.mark.parametrize("text", ["_id", "b,-_id", "-a"])
async def test_pages_of_a_filter_have_what_it_matches(outside: Any, storage: NodeStorage, text: str) -> None:
    choose = random.Random(text)
    documents = [random_filters.document(choose, number) for number in range(300)]
    collection = outside.get_collection("docs", codec_options=CODEC)
    await collection.insert_many(documents)
    await collection.create_index("a")
    sort = Sort.parse(text)
    for where in ({"a": {"$gte": 1}}, {"a": {"$in": [None, "a"]}}, {"a": {"$ne": 5}}, {"_id": {"$lt": 40}}):
        found = await all_pages(storage, 11, sort, where)
        assert sorted(found) == [each["_id"] for each in documents if Predicate(where).matches(each)]
        query = collection.find(where, {"_id": 1}, collation={"locale": "simple"})
        assert found == [document["_id"] async for document in query.sort(list(sort.fields))]


async def test_documents_that_no_driver_reads_are_found_as_they_are_stored(outside: Any, storage: NodeStorage) -> None:
    collection = outside.get_collection("docs", codec_options=RAW_CODEC)
    # MongoDB itself orders these in two ways: by bytes where it sorts, and by text in an expression.
    stored = [odd for name, odd in ODD.items() if name != "a DBPointer that is not UTF-8"]
    raws = [framed(b"\x10_id\0" + n.to_bytes(4, "little"), odd) for n, odd in enumerate(stored)]
    await collection.insert_many([RawBSONDocument(raw) for raw in raws])
    await collection.create_index([("v", -1), ("_id", -1)])
    plain = (await storage.page("docs", after=None, limit=1000, max_bytes=EVERYTHING, encoded=True)).nodes
    for sort in (BY_ID, Sort.parse("-v")):
        found = (await storage.query("docs", sort=sort, limit=1000, max_bytes=EVERYTHING)).nodes
        assert sorted((node.id, node.version, node.document.text) for node in found) == [
            (node.id, node.version, node.document.text) for node in plain
        ]
        assert sorted(await all_pages(storage, 1, sort)) == [node.id for node in plain]


async def test_a_page_continues_where_the_last_one_ended_whatever_is_written_meanwhile(
    outside: Any, storage: NodeStorage
) -> None:
    collection = outside["docs"]
    await collection.create_index([("n", 1), ("_id", 1)])
    await collection.insert_many([{"_id": n, "n": n} for n in range(10)])
    sort = Sort.parse("n")
    first = await storage.query("docs", sort=sort, limit=4, max_bytes=EVERYTHING)
    assert [node.id for node in first.nodes] == [0, 1, 2, 3]
    await collection.delete_many({"_id": {"$in": [1, 3]}})
    await collection.insert_many([{"_id": -1, "n": 2}, {"_id": 50, "n": 4.5}])
    second = await storage.query("docs", sort=sort, after=first.end, limit=100, max_bytes=EVERYTHING)
    assert [node.id for node in second.nodes] == [4, 50, 5, 6, 7, 8, 9]
    assert (second.more, second.end) == (False, None)


async def test_a_page_ends_once_it_has_its_bytes(outside: Any, storage: NodeStorage) -> None:
    await outside["docs"].insert_many([{"_id": n, "text": "x" * 1000} for n in range(6)])
    page = await storage.query("docs", where=Predicate({"_id": {"$gt": 0}}), limit=100, max_bytes=2500)
    assert [node.id for node in page.nodes] == [1, 2, 3]
    assert page.end is not None


@pytest.mark.parametrize(
    ("where", "sort", "index"),
    [
        ({"a": 5}, "_id", "create one on a,"),
        ({"b": {"$gt": 1}, "a": 5}, "_id", "create one on a, b,"),
        ({"$or": [{"_id": 5}, {"a": 5}]}, "_id", "each part of an $or needs one"),
        ({"a": 5}, "indexed", "create one on a,"),
        (None, "a,-b", "create one on a: 1, b: -1, _id: -1,"),
        ({}, "a", "create one on a: 1, _id: 1,"),
    ],
)
async def test_reads_that_no_index_serves_are_refused_with_the_index(
    outside: Any, storage: NodeStorage, where: dict[str, Any] | None, sort: str, index: str
) -> None:
    await outside["docs"].insert_one({"_id": 1, "a": 5, "indexed": 1})
    await outside["docs"].create_index([("indexed", 1), ("_id", 1)])
    with pytest.raises(IndexNeeded) as refused:
        await storage.query(
            "docs",
            where=None if where is None else Predicate(where),
            sort=Sort.parse(sort),
            limit=1,
            max_bytes=EVERYTHING,
        )
    assert index in refused.value.message


async def test_an_index_with_a_collation_serves_no_filter(outside: Any, storage: NodeStorage) -> None:
    await outside.create_collection("docs", collation={"locale": "en", "strength": 2})
    await outside["docs"].insert_many([{"_id": "a", "a": "x"}, {"_id": "b", "a": "X"}])
    await outside["docs"].create_index("a")
    with pytest.raises(IndexNeeded):
        await storage.query("docs", where=Predicate({"a": "x"}), limit=9, max_bytes=EVERYTHING)
    await outside["docs"].create_index("a", name="simple", collation={"locale": "simple"})
    page = await storage.query("docs", where=Predicate({"a": "x"}), limit=9, max_bytes=EVERYTHING)
    assert [node.id for node in page.nodes] == ["a"]


async def test_a_collection_that_is_empty_has_no_documents_for_any_filter(storage: NodeStorage) -> None:
    page = await storage.query("nothing", where=Predicate({"a": 5}), sort=Sort.parse("b"), limit=9, max_bytes=9)
    assert (page.nodes, page.more, page.end) == ([], False, None)


async def test_a_read_that_takes_too_long_is_refused(outside: Any) -> None:
    await outside["docs"].insert_many([{"_id": n, "a": n % 7, "b": n * 7919 % 50_000} for n in range(50_000)])
    await outside["docs"].create_index("a")
    for seconds in (0.005, 0.0004):  # for MongoDB, 0 ms are no limit
        impatient = NodeStorage(outside, outside.operations, WritePolicy(), query_timeout=seconds)
        with pytest.raises(TooComplex, match=f"takes longer than {seconds} s: narrow the filter"):
            await impatient.query(
                "docs", where=Predicate({"a": {"$gte": 0}}), sort=Sort.parse("b"), limit=9, max_bytes=EVERYTHING
            )


async def test_a_page_by_ids_that_takes_too_long_is_given_up(outside: Any) -> None:
    await outside["docs"].insert_many([{"_id": n} for n in range(50_000)])
    impatient = NodeStorage(outside, outside.operations, WritePolicy(), query_timeout=0.001)
    with pytest.raises(Unavailable, match="MongoDB did not answer in time"):
        await impatient.page("docs", after=None, skip=50_000, limit=9, max_bytes=EVERYTHING)


async def test_documents_that_do_not_fit_into_memory_are_not_sorted_on_the_disk(
    outside: Any, storage: NodeStorage
) -> None:
    await outside["docs"].insert_many([{"_id": n, "a": 1, "b": -n, "text": "x" * 1_000_000} for n in range(120)])
    await outside["docs"].create_index("a")
    with pytest.raises(TooComplex, match="too many documents to sort: create an index on b: 1, _id: 1"):
        await storage.query("docs", where=Predicate({"a": 1}), sort=Sort.parse("b"), limit=1000, max_bytes=EVERYTHING)


async def test_an_order_of_two_arrays_is_refused(outside: Any, storage: NodeStorage) -> None:
    await outside["docs"].insert_one({"_id": 1, "a": [1, 2], "b": [1, 2]})
    with pytest.raises(InvalidPredicate, match="two of its paths lead to arrays"):
        await storage.query("docs", where=Predicate({"_id": 1}), sort=Sort.parse("a,b"), limit=9, max_bytes=9)


async def test_values_that_are_too_long_for_a_url_end_no_page(outside: Any, storage: NodeStorage) -> None:
    await outside["docs"].insert_many([{"_id": n, "a": "x" * 3000} for n in range(2)])
    page = await storage.query(
        "docs", where=Predicate({"_id": {"$gte": 0}}), sort=Sort.parse("a"), limit=1, max_bytes=EVERYTHING
    )
    with pytest.raises(TooLarge, match="sort by shorter ones"):
        str(page.end)


async def test_an_end_that_no_page_has_is_refused(outside: Any, storage: NodeStorage) -> None:
    await outside["docs"].insert_many([{"_id": n, "a": n} for n in range(2)])
    page = await storage.query("docs", where=Predicate({"_id": {"$gte": 0}}), limit=1, max_bytes=EVERYTHING)
    assert page.end is not None
    text = str(page.end)
    assert PageEnd.parse(text, BY_ID) == page.end
    for other in ("", "5", "é", text[:-4], text + "AAAA", text.swapcase()):
        with pytest.raises(Malformed):
            PageEnd.parse(other, BY_ID)
    with pytest.raises(Malformed, match="for the same sort"):
        PageEnd.parse(text, Sort.parse("-_id"))
    for twice in (b"\x02s\0\x04\0\0\0_id\0", b"\x10k\0\0\0\0\0", b"\x04k\0\x05\0\0\0\0"):
        forged = framed(twice + page.end.bson[4:-1])
        with pytest.raises(Malformed, match="after takes what `next` gave"):
            PageEnd.parse(str(PageEnd(BY_ID, forged)), BY_ID)
        forged = framed(page.end.bson[4:15] + twice + page.end.bson[15:-1])
        with pytest.raises(Malformed, match="after takes what `next` gave"):
            PageEnd.parse(str(PageEnd(BY_ID, forged)), BY_ID)
    damaged = page.end.bson.replace(b"\x100\0", b"\x0e0\0")
    with pytest.raises(Malformed):
        await storage.query("docs", after=PageEnd(BY_ID, damaged), limit=1, max_bytes=EVERYTHING)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("a", [("a", 1), ("_id", 1)]),
        ("-a,b", [("a", -1), ("b", 1), ("_id", 1)]),
        ("a,-b.c", [("a", 1), ("b.c", -1), ("_id", -1)]),
        ("_id,a", [("_id", 1)]),
        ("-_id", [("_id", -1)]),
        ("a,-_id,b", [("a", 1), ("_id", -1)]),
    ],
)
def test_an_order_ends_with_the_id(text: str, fields: list[tuple[str, int]]) -> None:
    assert list(Sort.parse(text).fields) == fields
    assert Sort.parse(str(Sort.parse(text))) == Sort.parse(text)


@pytest.mark.parametrize("text", ["", "-", "a,,b", "a,-a", "a.$b", "_sync.v", "a.0", "a,b,c,d,e", "a..b"])
def test_texts_that_are_no_order_are_refused(text: str) -> None:
    with pytest.raises(InvalidPredicate, match=r"^sort"):
        Sort.parse(text)
