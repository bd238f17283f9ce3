"""A client's copy of one shape, kept by the rules of protocol.md and nothing else. It fails at the first breach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import jsonpatch
import orjson

from eventsync.domain.values.extended_json import to_json

Row = tuple[int, dict[str, Any]]


def seq_of(position: str) -> int:
    return int(position.partition(":")[2])


def log_of(position: str) -> str:
    return position.partition(":")[0]


@dataclass
class Replica:
    """`rows` is id → (version, document); `position` is None until a snapshot is whole."""

    shape: str
    position: str | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    live: bool = False
    events: int = 0
    snapshots: int = 0
    squashes: int = 0
    resets: int = 0
    _parts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def vector(self) -> dict[str, str]:
        return {} if self.position is None else {self.shape: self.position}

    @property
    def documents(self) -> dict[str, dict[str, Any]]:
        return {key: document for key, (_, document) in self.rows.items()}

    def disconnected(self) -> None:
        """Discard incomplete parts: they are worth nothing on another connection."""
        self._parts, self.live = [], False

    def take(self, message: dict[str, Any]) -> None:
        """Apply one message of the server."""
        kind = message["type"]
        if kind == "snapshot":
            self._snapshot(message)
        elif kind == "squashed":
            self._squashed(message)
        elif kind == "events":
            self.take_events(message["from"], message["to"], message["events"])
        elif kind == "live":
            self._progress(message["position"])
            self.live = True
        elif kind == "progress":
            self._progress(message["vector"].get(self.shape))
        elif kind == "reset":
            self.resets += 1
            self._parts = []
            self.position, self.rows, self.live = None, {}, False
        else:
            assert kind in {"welcome", "pong"}, message

    def _snapshot(self, message: dict[str, Any]) -> None:
        if (docs := self._whole(message)) is not None:
            self.take_snapshot(message["position"], docs)

    def _whole(self, message: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The rows of all parts, once the last one is there."""
        if message["part"] == 0:
            self._parts = []
        assert message["part"] == len(self._parts), "parts come in order"
        self._parts.append(message)
        if not message["last"]:
            return None
        parts, self._parts = self._parts, []
        span = {name: message.get(name) for name in ("type", "position", "from", "to")}
        assert all(span.items() <= ({"position": None, "from": None, "to": None} | part).items() for part in parts)
        return [row for part in parts for row in part["docs"]]

    def _squashed(self, message: dict[str, Any]) -> None:
        assert self.position is not None, "squashed documents before a snapshot"
        assert log_of(message["from"]) == log_of(message["to"]) == log_of(self.position)
        assert seq_of(message["from"]) <= seq_of(self.position), "a hole"
        assert seq_of(self.position) < seq_of(message["to"])
        if (docs := self._whole(message)) is None:
            return
        assert len({row["id"] for row in docs}) == len(docs), "a document is in a squashed answer once"
        for row in docs:
            if row.get("deleted"):
                self.rows.pop(row["id"], None)
            else:
                self.rows[row["id"]] = (row["version"], row["doc"])
        self.position = message["to"]
        self.squashes += 1

    def take_snapshot(self, position: str, docs: list[dict[str, Any]]) -> None:
        rows = {row["id"]: (row["version"], row["doc"]) for row in docs}
        assert len(rows) == len(docs), "a document is in a snapshot once"
        self._assert_forward(position)
        self.rows, self.position = rows, position
        self.snapshots += 1

    def _progress(self, position: str | None) -> None:
        if position is None or self.position is None:
            return
        self._assert_forward(position)
        self.position = position

    def _assert_forward(self, position: str) -> None:
        if self.position is not None:
            assert log_of(position) == log_of(self.position), f"{position} is of another log, without a reset"
            assert seq_of(position) >= seq_of(self.position), "positions only move forward"

    def take_events(self, start: str, end: str, events: list[dict[str, Any]]) -> None:
        assert self.position is not None, "events before a snapshot"
        assert log_of(start) == log_of(end) == log_of(self.position)
        own = seq_of(self.position)
        assert seq_of(start) <= own, f"a hole: own position {self.position}, events from {start}"
        assert seq_of(end) >= own, f"backwards: own position {self.position}, events to {end}"
        previous = seq_of(start)
        for event in events:
            assert previous < event["seq"] <= seq_of(end), "events in order, within their frame"
            previous = event["seq"]
            if event["seq"] > own:
                self._apply(event)
        _check_groups(events)
        self.position = end

    def _apply(self, event: dict[str, Any]) -> None:
        self.events += 1
        key, op = event["id"], event["op"]
        was = self.rows.get(key)
        # A document that enters was elsewhere before: its version outside of the shape is the base.
        enters = event.get("enter", False)
        assert event["base"] == (was[0] if was else 0) or event.get("external") or enters, (event, was)
        assert not enters or op == "create", event
        assert not event.get("leave") or (op == "delete" and not {"doc", "patch"} & event.keys()), event
        if op == "create":
            assert was is None, f"{key} is created twice"
            self.rows[key] = (event["version"], event["doc"])
        elif op == "replace":
            self.rows[key] = (event["version"], event["doc"])
        elif op == "update":
            assert was is not None, f"{key} is updated before it is created"
            self.rows[key] = (event["version"], jsonpatch.apply_patch(was[1], event["patch"]))
        else:
            assert op == "delete"
            assert was is not None, f"{key} is deleted twice"
            del self.rows[key]


def _check_groups(events: list[dict[str, Any]]) -> None:
    """The events of a transaction that concern one shape all come in one frame, the last one not missing its like."""
    groups: dict[str, list[int]] = {}
    for event in events:
        if "txn" in event:
            groups.setdefault(event["txn"]["id"], []).append(event["txn"]["n"])
    for numbers in groups.values():
        assert numbers == sorted(set(numbers))


def vector_text(vector: dict[str, str]) -> str:
    """The text form of a state vector, as SSE ids carry it."""
    return "&".join(f"{quote(shape, safe='')}={position}" for shape, position in vector.items())


def to_tree(value: Any) -> Any:
    """Return a value as a client reads it: dict, list, str, int, float, bool, None."""
    return orjson.loads(to_json(value))
