"""The messages of eventsync's protocol as another server sends them: the same bytes, and no log behind. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import orjson

from scripts.bench.crowd.client import SHAPE

LOG: Final = "bench000"
"""As long as the id of a log."""

_ROOM: Final = 60
"""Bytes of a document besides its text, about: what `Stage.write` takes them for."""


_TAIL: Final = {"at": "2026-11-23T05:22:46.405Z", "external": True}


def live(seq: int) -> bytes:
    """Return the message for a client that has said hello."""
    return orjson.dumps({"type": "live", "shape": SHAPE, "position": f"{LOG}:{seq}"})


def event(seq: int, at: float, size: int) -> bytes:
    """Return the message of one event, the creation of document `seq`; `at`: when it was meant to be sent."""
    return created(seq, {"_id": seq, "n": seq, "at": at, "text": "x" * max(0, size - _ROOM)})


def created(seq: int, document: dict[str, Any]) -> bytes:
    """Return the message of one event, the creation of this document."""
    span = {"from": f"{LOG}:{seq - 1}", "to": f"{LOG}:{seq}"}
    return orjson.dumps({"type": "events", "shape": SHAPE, **span, "events": [_created(seq, document)]})


def changed(seq: int, number: int, fields: dict[str, Any]) -> bytes:
    """Return the message of one event, which sets these fields of document `number`."""
    span = {"from": f"{LOG}:{seq - 1}", "to": f"{LOG}:{seq}"}
    patch = [{"op": "replace", "path": f"/{name}", "value": value} for name, value in fields.items()]
    event = _head(seq, number) | {"op": "update", "base": 1, "version": 2, "patch": patch} | _TAIL
    return orjson.dumps({"type": "events", "shape": SHAPE, **span, "events": [event]})


def body(seq: int, document: dict[str, Any]) -> bytes:
    """Return that event alone."""
    return orjson.dumps(_created(seq, document))


def joined(start: int, end: int, bodies: Sequence[str]) -> str:
    """Return the message of the events with `start < seq <= end`."""
    head = f'{{"type":"events","shape":"{SHAPE}","from":"{LOG}:{start}","to":"{LOG}:{end}","events":['
    return head + ",".join(bodies) + "]}"


def _created(seq: int, document: dict[str, Any]) -> dict[str, Any]:
    return _head(seq, document["_id"]) | {"op": "create", "base": 0, "version": 1, "doc": document} | _TAIL


def _head(seq: int, number: int) -> dict[str, Any]:
    return {"seq": seq, "collection": SHAPE, "id": f"int:{number}"}


def text_frame(payload: bytes) -> bytes:
    """A text frame, not masked. Source: RFC 6455 section 5.2. (Written again: a floor shares no code with ours.)"""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload
