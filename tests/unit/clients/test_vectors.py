"""`clients/vectors` against this server: it can send each message that a case receives, and reads each that is sent.

So the contract of the client packages cannot drift from the server. The packages run the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import bson
import orjson
import pytest
from bson import json_util
from bson.codec_options import DatetimeConversion
from bson.raw_bson import RawBSONDocument

from eventsync import errors
from eventsync.api import openapi
from eventsync.api.websocket import NoHello, SlowClient
from eventsync.domain import protocol
from eventsync.domain.events import Event, TransactionPart, place
from eventsync.domain.ids import format_id, parse_id
from eventsync.domain.plan import ResetReason
from eventsync.domain.positions import Position, vector_from_json
from eventsync.domain.routes import Transition, body_for
from eventsync.domain.shapes import Shape, asked_shape
from eventsync.domain.values.extended_json import decode, to_json
from eventsync.server.problems import Close
from eventsync.sync.sessions import session
from support.json_schema import faults

Json = dict[str, Any]

FOLDER: Final = Path(__file__).parents[3] / "clients" / "vectors"
DOCUMENT: Final = openapi.document()
SERVER: Final = {"$ref": "#/components/schemas/ServerMessage"}
CLIENT: Final = {"$ref": "#/components/schemas/ClientMessage"}
CASES: Final = {
    f"{path.stem}: {case['name']}": case
    for path in sorted(FOLDER.glob("*.json"))
    for case in json.loads(path.read_text())["cases"]
}
MESSAGES: Final = [
    (name, step["receive"]) for name, case in CASES.items() for step in case["steps"] if "receive" in step
]
FUTURE: Final = [step["receive"] for case in CASES.values() for step in case["steps"] if "future" in step]
SENT: Final = [
    message for case in CASES.values() for step in case["steps"] for message in step.get("expect", {}).get("sent", [])
]
CLOSED: Final = [step["close"] for case in CASES.values() for step in case["steps"] if "close" in step]

_STARTS: Final = frozenset({"name", "why", "shapes", "vector", "documents", "client_id", "token", "steps"})
_STEPS: Final = {
    "open": {"open", "token"},
    "receive": {"receive", "future"},
    "close": {"close"},
    "lost": {"lost"},
    "wait": {"wait"},
    "token": {"token"},
    "follow": {"follow"},
    "reach": {"reach"},
    "expect": {"expect"},
}
_EXPECTED: Final = frozenset({
    "status", "reason", "sent", "acknowledged", "vector", "documents", "changes", "refused", "reconnect", "asked",
    "stale",
})  # fmt: skip

_OPTIONS: Final = json_util.RELAXED_JSON_OPTIONS.with_options(datetime_conversion=DatetimeConversion.DATETIME_AUTO)


def test_names_are_unique() -> None:
    names = [case["name"] for case in CASES.values()]
    assert len(set(names)) == len(names) > 100


@pytest.mark.parametrize("name", CASES)
def test_case_has_the_documented_form(name: str) -> None:
    case = CASES[name]
    assert {"name", "why", "shapes", "steps"} <= case.keys() <= _STARTS
    assert "expect" in case["steps"][-1], "a case ends with what it expects"
    for step in case["steps"]:
        kind = next(word for word in _STEPS if word in step)
        assert step.keys() <= _STEPS[kind]
        assert step.get("expect", {}).keys() <= _EXPECTED
        for change in step.get("expect", {}).get("changes", []):
            assert {"shape", "kind", "id"} <= change.keys()
            assert change["kind"] in {"create", "update", "delete"}


@pytest.mark.parametrize("name", CASES)
def test_server_can_send_what_is_received(name: str) -> None:
    messages = [step["receive"] for step in CASES[name]["steps"] if "receive" in step and not step.get("future")]
    for message in messages:
        assert orjson.loads(ENCODERS[message["type"]](message)) == message
    assert not faults(DOCUMENT, {"type": "array", "items": SERVER}, messages)


@pytest.mark.parametrize("name", CASES)
def test_server_reads_what_is_sent(name: str) -> None:
    messages = [message for step in CASES[name]["steps"] for message in step.get("expect", {}).get("sent", [])]
    for message in messages:
        protocol.parse(json.dumps(message), max_shapes=100)
    assert not faults(DOCUMENT, {"type": "array", "items": CLIENT}, messages)


def test_messages_of_the_future_are_none_of_today() -> None:
    assert len(FUTURE) >= 3
    assert all(faults(DOCUMENT, SERVER, message) for message in FUTURE)


# --- nothing of the protocol is left out ------------------------------------------------------------------------


def types_of(schema: str) -> set[str]:
    return {item["properties"]["type"]["const"] for item in DOCUMENT["components"]["schemas"][schema]["oneOf"]}


def test_each_message_of_the_server_is_in_a_case() -> None:
    assert types_of("ServerMessage") <= {message["type"] for _, message in MESSAGES}
    assert types_of("ServerMessage") == ENCODERS.keys()


def test_each_message_of_a_client_is_in_a_case() -> None:
    assert {message["type"] for message in SENT} == types_of("ClientMessage")


def test_each_optional_member_is_in_a_case() -> None:
    seen = {(message["type"], member) for _, message in MESSAGES for member in message}
    declared = {
        (item["properties"]["type"]["const"], member)
        for item in DOCUMENT["components"]["schemas"]["ServerMessage"]["oneOf"]
        for member in item["properties"]
    }
    assert declared <= seen
    members = {member for _, message in MESSAGES for event in message.get("events", []) for member in event}
    assert DOCUMENT["components"]["schemas"]["Event"]["properties"].keys() <= members


def test_each_error_of_the_connection_is_in_a_case() -> None:
    refusals = {error.code for error in session._REFUSALS} | {errors.InvalidPredicate.code, errors.EventsyncError.code}
    assert refusals == {message["code"] for _, message in MESSAGES if message["type"] == "error"}


def test_each_reason_is_in_a_case() -> None:
    assert {*ResetReason} == {message["reason"] for _, message in MESSAGES if message["type"] == "reset"}
    assert errors.Unauthenticated.REASONS.keys() <= {close["reason"] for close in CLOSED}


def test_each_close_code_is_in_a_case() -> None:
    by_rfc_6455 = {1001, 1002, 1007, 1009}
    assert {*map(int, Close)} | by_rfc_6455 <= {close["code"] for close in CLOSED}
    assert NoHello.code == "no_hello"
    assert SlowClient.code == "slow"


# --- what the server would send ---------------------------------------------------------------------------------


def position(text: str) -> Position:
    found = Position.parse(text)
    assert str(found) == text
    return found


def shape(text: str) -> Shape:
    found = Shape.parse(text)
    assert str(found) == text, "the server answers in the canonical form"
    return found


def vector(message: Json) -> dict[Shape, Position]:
    return vector_from_json(message["vector"], limit=100)


def document(tree: Json) -> RawBSONDocument:
    """Return a document as MongoDB stores it."""
    return RawBSONDocument(bson.encode(json_util.loads(json.dumps(tree), json_options=_OPTIONS)))


def document_json(tree: Json) -> bytes:
    return to_json(decode(document(tree).raw))


def check_id(text: str) -> None:
    assert format_id(parse_id(text)) == text, "the server answers with the canonical form"


def rows(message: Json) -> Iterator[bytes]:
    for row in message["docs"]:
        check_id(row["id"])
        if "doc" in row:
            assert row["doc"].keys() >= {"_id"}
            yield b'{"id":%b,"version":%d,"doc":%b}' % (to_json(row["id"]), row["version"], document_json(row["doc"]))
        else:
            yield orjson.dumps(row)


def body(event: Json) -> bytes:
    """Return the event as the sequencer, and the route of its reader, make it."""
    check_id(event["id"])
    enters, leaves = event.get("enter", False), event.get("leave", False)
    assert ("doc" in event) == (event["op"] in {"create", "replace"})
    assert ("patch" in event) == (event["op"] == "update")
    made = Event(
        event["collection"],
        event["id"],
        "update" if enters or leaves else event["op"],
        event["base"],
        event["version"],
        datetime.fromisoformat(event["at"]),
        document=None if enters or "doc" not in event else decode(document(event["doc"]).raw),
        patch=[] if enters or leaves else event.get("patch"),
        op_id=event.get("op_id"),
        by=event.get("by"),
        patch_json=orjson.dumps(event["patch"]) if "patch" in event else None,
    )
    txn = TransactionPart(**event["txn"]) if "txn" in event else None
    placed = place(made.encode(), event["seq"], txn)
    transition: Transition = "enter" if enters else "leave" if leaves else "stay"
    return body_for(placed, transition, document_json(event["doc"]) if enters else None)


def events(message: Json) -> bytes:
    start, end = position(message["from"]), position(message["to"])
    assert start.log == end.log
    places = [start.seq, *(event["seq"] for event in message["events"])]
    assert places == sorted({*places}), "events are in order"
    assert places[-1] <= end.seq
    return protocol.events(shape(message["shape"]), start.log, start.seq, end.seq, map(body, message["events"]))


def snapshot(message: Json) -> bytes:
    at, part, last = position(message["position"]), message["part"], message["last"]
    return b"".join(protocol.snapshot(at, shape(message["shape"]), part, [*rows(message)], last=last))


def squashed(message: Json) -> bytes:
    start, end = position(message["from"]), position(message["to"])
    assert start.log == end.log
    assert start.seq < end.seq
    part, last = message["part"], message["last"]
    return b"".join(protocol.squashed(start, end, shape(message["shape"]), part, [*rows(message)], last=last))


def error(message: Json) -> bytes:
    kinds: dict[str, Callable[[str], errors.EventsyncError]] = {
        "unauthenticated": lambda text: errors.Unauthenticated(
            message["reason"], text, retry_after=message.get("retry_after")
        ),
        "unavailable": lambda text: errors.Unavailable(text, retry_after=message["retry_after"]),
        "invalid_predicate": lambda text: errors.InvalidPredicate(*text.split(": ", 1)),
        "internal": errors.EventsyncError,
        "forbidden": errors.Forbidden,
    }
    others = {
        kind.code: kind for kind in (errors.Malformed, errors.NotTracked, errors.RateLimited, errors.UnknownShape)
    }
    failure = (kinds | others)[message["code"]](message["message"])
    return protocol.error(failure, str(asked_shape(message["shape"])) if "shape" in message else None)


ENCODERS: Final[dict[str, Callable[[Json], bytes]]] = {
    "welcome": lambda message: protocol.welcome(
        message["session"],
        message["client_id"],
        message["heartbeat"],
        vector(message),
        remembered=message.get("remembered", True),
        token_expires_in=message.get("token_expires_in"),
    ),
    "snapshot": snapshot,
    "squashed": squashed,
    "events": events,
    "live": lambda message: protocol.live(shape(message["shape"]), position(message["position"])),
    "progress": lambda message: protocol.progress(
        vector(message), stale=message.get("stale", False), token_expires_in=message.get("token_expires_in")
    ),
    "authenticated": lambda message: protocol.authenticated(message.get("expires_in")),
    "reset": lambda message: protocol.reset(shape(message["shape"]), ResetReason(message["reason"])),
    "error": error,
    "pong": lambda _: protocol.PONG,
}
