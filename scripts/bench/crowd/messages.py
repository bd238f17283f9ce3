"""Messages of the sync protocol, read and checked against the history. What many clients get is read once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import orjson

from scripts.bench.crowd.history import History

_KEPT_BYTES: Final = 64 * 1024 * 1024
_OWN: Final = b'{"type":"welcome"'
"""Beginning of a message that no other client gets."""


class WrongError(Exception):
    """A client has not got what it should have."""


@dataclass(frozen=True, slots=True)
class Message:
    """`start` and `end` are the span that it covers, in seqs; where there is no span both are the position, or -1.

    `at` is when its events were written, in seconds of the monotonic clock; `documents` are the ids of its rows.
    """

    kind: str
    start: int = -1
    end: int = -1
    at: tuple[float, ...] = ()
    documents: frozenset[int] = frozenset()
    part: int = 0
    last: bool = True
    retry_after: float | None = None
    text: str = ""


class Reader:
    """Reads messages about the only shape. Raises `WrongError` at the first event or row that should be another."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._read: OrderedDict[bytes, Message] = OrderedDict()
        self._bytes = 0

    def read(self, data: bytes) -> Message:
        """Return a message as it came."""
        if data.startswith(_OWN):
            return Message("welcome")
        if (found := self._read.get(data)) is not None:
            return found
        message = self._parsed(orjson.loads(data))
        self._read[data] = message
        self._bytes += len(data)
        while self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._read.popitem(last=False)[0])
        return message

    def _parsed(self, raw: dict[str, Any]) -> Message:
        kind = raw["type"]
        if kind == "events":
            return self._events(raw)
        if kind == "snapshot":
            end = _seq(raw["position"])
            return Message(kind, end, end, (), self._documents(raw["docs"], end), raw["part"], raw["last"])
        if kind in {"live", "progress"}:
            position = raw["position"] if kind == "live" else next(iter(raw["vector"].values()), None)
            seq = _seq(position) if position else -1
            return Message(kind, seq, seq)
        text = str(raw.get("code") or raw.get("reason") or "")
        return Message(kind, retry_after=raw.get("retry_after"), text=text)

    def _events(self, raw: dict[str, Any]) -> Message:
        start, end, times = _seq(raw["from"]), _seq(raw["to"]), []
        for event in raw["events"]:
            fields = event.get("doc") or {change["path"][1:]: change["value"] for change in event["patch"]}
            seq = event["seq"]
            if not self.history.is_event(seq, fields["n"], int(event["id"].removeprefix("int:"))):
                raise WrongError(f"event {seq} is {fields.get('n')} of {event['id']}")
            times.append(fields["at"])
        seqs = [event["seq"] for event in raw["events"]]
        if seqs != list(range(start + 1, end + 1)):
            raise WrongError(f"a frame from {start} to {end} has {seqs[:1]} to {seqs[-1:]}, {len(seqs)} events")
        return Message("events", start, end, tuple(times))

    def _documents(self, rows: list[dict[str, Any]], seq: int) -> frozenset[int]:
        found = {int(row["id"].removeprefix("int:")): row["doc"]["n"] for row in rows}
        if len(found) != len(rows):
            raise WrongError(f"a document comes twice at {seq}")
        for number, value in found.items():
            if value != self.history.value(number, seq):
                raise WrongError(f"document {number} at {seq} has n = {value}")
        return frozenset(found)


def _seq(position: str) -> int:
    return int(position.rpartition(":")[2])
