"""The parts of the Python client: patches, texts of shapes, stores."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.ids import format_id
from eventsync.domain.positions import vector_from_short, vector_from_text, vector_to_json
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.shapes import Shape
from eventsync.errors import Malformed
from eventsync_client import (
    AsyncClient,
    Memory,
    Operation,
    OutcomeUnknown,
    RequestError,
    Sqlite,
    SyncFailed,
    VersionMismatch,
)
from eventsync_client.actions import Ask, Why
from eventsync_client.core import Core, Status
from eventsync_client.http import Http
from eventsync_client.patch import PatchError, apply_patch, same
from eventsync_client.positions import Position, vector_text
from eventsync_client.replica import RawChange, Row, Update
from eventsync_client.shapes import id_text, shape_text
from eventsync_client.store import Pending
from eventsync_client.transports import Ended, Link, Transport, open_link
from support.waiting import scaled, within

DATA: Final = Path(__file__).parents[2] / "data"
SUITE: Final = [
    case
    for name in ("json-patch-tests.json", "json-patch-spec_tests.json")
    for case in json.loads((DATA / name).read_text())
    if not case.get("disabled") and "patch" in case
]
VALUES: Final = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["int:5", "str:x", "bool:true", "null:", "ejson:1", "5f2c81ab09d3e4175f2c81ab", ".", "a&b=c/d?e"]),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.none(),
    st.floats(-1e9, 1e9).filter(lambda number: number == 0 or abs(number) > 1e-4),
    st.uuids(),
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
        lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
    ),
    st.binary(min_size=12, max_size=12).map(ObjectId),
)


@pytest.mark.parametrize("case", SUITE, ids=lambda case: case.get("comment", "")[:60])
def test_json_patch_suite(case: dict[str, Any]) -> None:
    before = json.dumps(case["doc"])
    if "error" in case:
        with pytest.raises((PatchError, TypeError)):
            apply_patch(case["doc"], case["patch"])
    else:
        assert same(apply_patch(case["doc"], case["patch"]), case.get("expected", case["doc"]))
    assert json.dumps(case["doc"]) == before, "nothing is changed in place"


def test_untouched_parts_are_shared() -> None:
    document: dict[str, Any] = {"a": {"x": 1}, "b": {"y": [1]}}
    after = apply_patch(
        document, [{"op": "replace", "path": "/a/x", "value": 2}, {"op": "add", "path": "/a/z", "value": 3}]
    )
    assert after == {"a": {"x": 2, "z": 3}, "b": {"y": [1]}}
    assert after["b"] is document["b"]


def test_value_of_a_patch_is_not_changed_by_the_next_operation() -> None:
    value: dict[str, Any] = {"n": 1}
    after = apply_patch(
        {}, [{"op": "add", "path": "/a", "value": value}, {"op": "replace", "path": "/a/n", "value": 2}]
    )
    assert (after, value) == ({"a": {"n": 2}}, {"n": 1})


# --- texts ------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.sampled_from(["owner", "state", "_x"]), VALUES | st.lists(VALUES, min_size=1, max_size=3), min_size=1
    )
)
def test_shape_is_the_one_that_the_server_answers(parameters: dict[str, Any]) -> None:
    values = {name: value if isinstance(value, list) else [value] for name, value in parameters.items()}
    text = shape_text("my_orders", parameters)
    assert text == str(RoutedShape.of("my_orders", values)) == str(Shape.parse(text))
    assert shape_text(text, {}) == text


def test_shapes_without_parameters() -> None:
    assert [shape_text(text, {}) for text in ("orders", "orders/a?b", "my_orders?")] == [
        "orders",
        "orders/a?b",
        "my_orders?",
    ]
    assert shape_text("my_orders?b=2&a=str:1&a=1", {}) == "my_orders?a=1&b=2"
    with pytest.raises(TypeError, match="set has no text"):
        id_text({1})


@given(st.sampled_from(["", "str:", "ejson:", "uuid:", "int:"]), VALUES.map(str) | VALUES.map(format_id))
def test_document_is_the_one_that_the_server_answers(prefix: str, rest: str) -> None:
    for text in (f"orders/{prefix}{rest}", f"orders/ejson:{json.dumps(rest)}"):
        try:
            canonical = str(Shape.parse(text))
        except Malformed:
            assert shape_text(text, {}) == text, "the server refuses it by this name"
            continue
        assert shape_text(text, {}) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("str:abc", "abc"),
        ("str:", "str:"),
        ("str", "str"),
        (".", "str:."),
        ("a\0b", 'ejson:"a\\u0000b"'),
        ("uuid:0F8FAD5BD9CB469FA16570867728950E", "uuid:0f8fad5b-d9cb-469f-a165-70867728950e"),
        ('ejson:"str:x"', "str:str:x"),
        ("ejson:5", "int:5"),
        ("ejson:5.0", "ejson:5.0"),
        ("ejson:null", "ejson:null"),
        ("59a47286cfa9a3a73e51e72c", "59a47286cfa9a3a73e51e72c"),
    ],
)
def test_ids_have_one_text(text: str, canonical: str) -> None:
    assert shape_text(f"orders/{text}", {}) == f"orders/{canonical}" == str(Shape.parse(f"orders/{text}"))


@pytest.mark.parametrize(
    "text", ["", "int:abc", "int:007", "uuid:zz", "ejson:{", 'ejson:"\\ud800"', "ejson:" + "[" * 9000]
)
def test_texts_that_are_no_ids_stay_for_the_server_to_refuse(text: str) -> None:
    assert shape_text(f"orders/{text}", {}) == f"orders/{text}"
    with pytest.raises(Malformed):
        Shape.parse(f"orders/{text}")


def test_text_without_utf_8_is_no_shape() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        shape_text("orders/\ud800", {})


def test_parameter_has_any_name_but_model() -> None:
    client = AsyncClient("http://127.0.0.1:8000")
    assert client.shape("cards", name="a", self="b").text == "cards?name=a&self=b"
    assert client.shape("cards?model=x").text == "cards?model=x"


@given(st.integers(-(2**63), 2**63 - 1) | st.uuids() | st.binary(min_size=12, max_size=12).map(ObjectId))
def test_id_of_another_type_has_the_servers_text(value: Any) -> None:
    assert id_text(value) == format_id(value)


@given(
    st.dictionaries(
        st.text("ab/&=é ", min_size=1, max_size=300).map("c".__add__),
        st.tuples(st.sampled_from(["k3f9ab2c", "k3f9ab2c.5f2c81ab", "zzzzzzzz"]), st.integers(0, 2**60)),
        max_size=8,
    ),
    st.sets(st.integers(0, 7)),
)
def test_server_reads_the_vectors_text(positions: dict[str, tuple[str, int]], without: set[int]) -> None:
    vector = {
        f"c/{name}": f"{log}:{seq}" for at, (name, (log, seq)) in enumerate(positions.items()) if at not in without
    }
    shapes = [f"c/{name}" for name in positions]
    text = vector_text(shapes, vector)
    assert len(text) <= 1024 or "=" not in text
    asked = [Shape.parse(shape) for shape in shapes]
    if text:
        read = vector_from_text(text, limit=9) if "=" in text else vector_from_short(text, asked)
        assert vector_to_json(read) == vector


@pytest.mark.parametrize("text", ["", ":1", "k", "k:", "k:x", "k:-1", "k:٣"])
def test_text_that_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.parse(text)


# --- stores -----------------------------------------------------------------------------------------------------


def update(position: str | None, *changes: RawChange, clear: bool = False) -> Update:
    put = {change.id: change.after for change in changes if change.after is not None}
    remove = [change.id for change in changes if change.after is None]
    return Update("docs", position, put, remove, clear, list(changes))


def created(key: str, n: int = 1) -> RawChange:
    return RawChange("docs", key, "events", None, Row(1, {"_id": key, "n": n}), {"seq": n, "op": "create"})


@pytest.fixture
def store(tmp_path: Path) -> Sqlite:
    made = Sqlite(tmp_path / "store.db")
    made.open()
    return made


def again(store: Sqlite) -> Sqlite:
    """The store as another process finds it."""
    store.close()
    store.open()
    return store


def test_rows_and_position_last(store: Sqlite) -> None:
    assert store.load("docs").position is None
    assert store.apply(update("k:5", created("a"), created("b", 2**60))) == []
    store.apply(update("k:6", RawChange("docs", "a", "events", Row(1, {"_id": "a"}), None)))
    saved = again(store).load("docs")
    assert (saved.position, saved.rows, saved.pending) == ("k:6", {"b": Row(1, {"_id": "b", "n": 2**60})}, None)
    store.apply(update("k:7", created("c"), clear=True))
    assert set(store.load("docs").rows) == {"c"}
    store.forget("docs")
    assert again(store).load("docs").rows == {}
    store.close()


def test_changes_that_are_not_done_come_again(store: Sqlite) -> None:
    store.apply(update("k:5", created("a")))
    (first,) = store.take_changes("docs", store.load("docs").rows)
    assert (first.change.kind, first.change.id, first.position) == ("create", "a", None)
    second, third = store.apply(update("k:7", created("b"), created("c")))
    assert (second.position, third.position) == (None, "k:7")
    store.done("docs", first.number)
    assert again(store).load("docs").pending == [second, third]
    store.close()


def effect(store: Sqlite, pending: Pending, statement: str = "SELECT 1") -> None:
    with store.transaction("docs", pending.number) as db:
        db.execute("INSERT INTO effects VALUES (?)", (pending.change.id,))
        db.execute(statement)


def test_transaction_is_all_or_nothing(store: Sqlite) -> None:
    store.take_changes("docs", {})
    store.connection.execute("CREATE TABLE effects (id TEXT)")
    one, two = store.apply(update("k:7", created("a"), created("b")))
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        effect(store, one, "INSERT INTO missing VALUES (1)")
    assert store.load("docs").pending == [one, two]
    effect(store, one)
    with pytest.raises(RuntimeError, match="done already"):
        effect(store, one)
    # A block that commits by itself commits that the change is done, too.
    with pytest.raises(RuntimeError, match="ended the transaction"):
        effect(store, two, "COMMIT")
    assert again(store).load("docs").pending == []
    assert store.connection.execute("SELECT id FROM effects ORDER BY id").fetchall() == [("a",), ("b",)]
    store.close()


def test_store_of_another_format_is_refused(tmp_path: Path) -> None:
    store = Sqlite(tmp_path / "store.db")
    store.open()
    with pytest.raises(RuntimeError, match="in use"):
        store.open()
    store.connection.execute("UPDATE eventsync_format SET format = 99")
    store.connection.execute("DROP TABLE eventsync_changes")
    store.close()
    with pytest.raises(RuntimeError, match="format 99"):
        store.open()
    with closing(sqlite3.connect(store.path)) as database:
        listed = database.execute("SELECT name FROM sqlite_master WHERE name = 'eventsync_changes'").fetchall()
    assert listed == [], "a later version may do without it"
    with pytest.raises(RuntimeError, match="while its client is"):
        store.load("docs")


def test_second_client_of_a_file_fails_and_changes_nothing(store: Sqlite) -> None:
    """As two processes with one file: the rows of one would stand with the position of the other."""
    other = Sqlite(store.path)
    other.open()
    assert store.load("docs") == other.load("docs")
    store.apply(update("k:5", created("a")))
    with pytest.raises(RuntimeError, match="in use by another client, which has written docs"):
        other.apply(update("k:4", created("b")))
    store.apply(update("k:6", created("c")))
    assert set(store.load("docs").rows) == {"a", "c"}
    # After a kill, nothing of the first one is in the way.
    assert other.load("docs").position == "k:6"
    other.apply(update("k:7", created("d")))
    with pytest.raises(RuntimeError, match="in use"):
        store.apply(update("k:8"))
    for each in (store, other):
        each.close()


def test_memory_has_no_transactions() -> None:
    with pytest.raises(TypeError, match="Sqlite"):
        Memory().transaction("docs", 1)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ws://127.0.0.1", "http://", "http://[::1"])
def test_address_is_that_of_a_server(url: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        AsyncClient(url)


def test_values_have_their_own_text() -> None:
    assert shape_text("s", {"a": uuid.UUID(int=5)}) == "s?a=uuid:00000000-0000-0000-0000-000000000005"
    assert sqlite3.threadsafety >= 1


def test_failing_token_function_is_asked_again_before_the_token_ends() -> None:
    core = Core(has_token=True)
    core.follow("docs", None, {})
    core.start(0)
    core.token("t1", 0)
    core.opened(0)
    core.receive({"type": "welcome", "heartbeat": 25.0, "vector": {}, "token_expires_in": 16}, 0)
    for at in (8, 12, 14, 15, 16):
        core.actions.clear()
        core.tick(at - 0.1)
        assert not core.actions
        core.tick(at)
        assert list(core.actions) == [Ask("expiring")]
        core.token_failed("the issuer is away", at)
    assert core.status is Status.SYNCING


async def test_token_function_that_never_answers_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsync_client.client._TOKEN_TIMEOUT", scaled(0.05))
    asked, given_up, again = list[Why](), asyncio.Event(), asyncio.Event()

    async def never(why: Why) -> str:
        asked.append(why)
        if len(asked) == 2:
            again.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        return "never"

    async with AsyncClient("http://127.0.0.1:1", token=never) as client, within(10):
        client.shape("docs")
        await given_up.wait()
        await again.wait()
        assert "the token function does not answer" in client.reason
    assert asked[:2] == ["connect", "connect"]


@pytest.mark.parametrize("refuses", [False, True], ids=["first token", "token in place of a refused one"])
async def test_request_waits_for_a_token_no_longer_than_for_its_answer(refuses: bool) -> None:
    asked = list[Why]()

    async def first(why: Why) -> str:
        asked.append(why)
        if not refuses or why == "refused":
            await asyncio.Event().wait()
        return "refused soon"

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")  # of the document
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, AsyncClient(url, token=first) as client, within(10):
        cards = client.collection("cards")
        cards.timeout = scaled(1) if refuses else 0.05
        with pytest.raises(OutcomeUnknown, match="no token came in time") as unknown:
            await cards.insert({"n": 1}, idempotency_key="once")
        assert unknown.value.idempotency_key == "once"
    assert asked == (["connect", "refused"] if refuses else ["connect"])


@pytest.mark.parametrize("doc", ["text", ["list"], None, 7])
async def test_only_a_mapping_is_a_document(doc: Any) -> None:
    async with AsyncClient("http://127.0.0.1:1") as client:
        cards = client.collection("cards")
        for write in (cards.insert(doc), cards.replace("a", doc)):
            with pytest.raises(TypeError, match="a document is a mapping"):
                await write
    for operation in (Operation.insert, partial(Operation.replace, "a")):
        with pytest.raises(TypeError, match="a document is a mapping"):
            operation(doc)


@pytest.mark.parametrize("transport", ["auto", "sse"])
async def test_head_that_is_too_long_for_the_server_is_a_matter_of_the_transport(
    monkeypatch: pytest.MonkeyPatch, transport: Literal["auto", "sse"]
) -> None:
    """An event stream names all shapes in its address."""
    tried: list[str] = []
    went_on = asyncio.Event()

    async def send(client: httpx.AsyncClient, request: httpx.Request, **_: Any) -> httpx.Response:
        return httpx.Response(431, json={"code": "too_large", "detail": "the head is too long"}, request=request)

    async def refuse(asked: Transport, *rest: Any) -> Link:
        tried.append(asked)
        if asked == "sse":
            return await open_link(asked, *rest)
        if "sse" in tried:
            went_on.set()
        raise Ended(None, "the connection was lost")

    monkeypatch.setattr(httpx.AsyncClient, "send", send)
    monkeypatch.setattr("eventsync_client.client.open_link", refuse)
    monkeypatch.setattr("eventsync_client.core._LONGEST", 0.0)
    async with within(), AsyncClient("http://127.0.0.1:1", transport=transport) as client:
        shape = client.shape("cards")
        if transport == "sse":
            with pytest.raises(SyncFailed, match="the head is too long"):
                await shape.live()
        else:
            await went_on.wait()
    assert tried[:4] == (["sse"] if transport == "sse" else ["websocket", "websocket", "sse", "websocket"])


FOREIGN: Final = [
    (404, "404 page not found"),
    (403, "<html>blocked</html>"),
    (400, '{"code": 400}'),
    (410, '"gone"'),
    (426, "[]"),
]
"""Answers that are not the server's, as of a proxy before it."""


async def test_write_is_repeated_until_the_server_itself_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [*FOREIGN, (412, '{"code": "version_mismatch"}')]
    keys = set()

    def answer(request: httpx.Request) -> httpx.Response:
        keys.add(request.headers["Idempotency-Key"])
        status, text = answers.pop(0)
        return httpx.Response(status, text=text)

    monkeypatch.setattr("random.random", lambda: 0.0)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client, within(10):
        http = Http(client, "http://h", None)
        with pytest.raises(VersionMismatch):
            await http.request("PATCH", "/x", body={}, headers={"Idempotency-Key": "k"})
        assert (answers, keys) == ([], {"k"})
        answers += [(404, "404 page not found"), (413, "<html>too large</html>")]
        with pytest.raises(OutcomeUnknown, match="404") as unknown:
            await http.request("PATCH", "/x", body={}, headers={"Idempotency-Key": "k"}, repeat=False)
        assert (unknown.value.status, unknown.value.code) == (404, "http_error")
        with pytest.raises(RequestError, match="413") as refused:
            await http.request("PATCH", "/x", body={}, headers={"Idempotency-Key": "k"})
        assert not isinstance(refused.value, OutcomeUnknown)
