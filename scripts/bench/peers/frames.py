"""The messages of eventsync's protocol as another server sends them: the same bytes, and no log behind. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from scripts.bench.clients.exactness import SHAPE

LOG: Final = "bench000"
"""As long as the id of a log."""


def live(seq: int) -> bytes:
    """Return the message for a client that has said hello."""
    return orjson.dumps({"type": "live", "shape": SHAPE, "position": f"{LOG}:{seq}"})


def created(seq: int, document: dict[str, Any]) -> bytes:
    """Return the message of one event, the creation of this document."""
    return joined(seq - 1, seq, [body(seq, document)]).encode()


def body(seq: int, document: dict[str, Any]) -> str:
    """Return that event alone."""
    return _event(seq, document["_id"], op="create", base=0, version=1, doc=document)


def changed(seq: int, number: int, fields: dict[str, Any]) -> bytes:
    """Return the message of one event, which sets these fields of document `number`."""
    patch = [{"op": "replace", "path": f"/{name}", "value": value} for name, value in fields.items()]
    return joined(seq - 1, seq, [_event(seq, number, op="update", base=1, version=2, patch=patch)]).encode()


def joined(start: int, end: int, bodies: Sequence[str]) -> str:
    """Return the message of the events with `start < seq <= end`."""
    head = f'{{"type":"events","shape":"{SHAPE}","from":"{LOG}:{start}","to":"{LOG}:{end}","events":['
    return head + ",".join(bodies) + "]}"


def _event(seq: int, number: int, **what: Any) -> str:
    head = {"seq": seq, "collection": SHAPE, "id": f"int:{number}"}
    return orjson.dumps(head | what | {"at": "2026-11-23T05:22:46.405Z", "external": True}).decode()
