"""The spans of events whose writes are traced: under one span each, its conversion and its insert."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from eventsync.domain.positions import LogId, Seq
from eventsync.tracing.process import current

if TYPE_CHECKING:  # it imports OpenTelemetry
    from eventsync.tracing.spans import TraceSpan, Tracing


class EventSpans:
    """The spans of one term over one log, from the conversion of a change until its event is appended.

    As many are open as there are events in the pipeline, which is bounded.
    """

    def __init__(self, tracing: Tracing, log: LogId) -> None:
        self._tracing = tracing
        self._log = log
        self._began = 0
        self._open: dict[Seq, tuple[TraceSpan, str]] = {}
        """The span of each event, and its collection."""

    @classmethod
    def of(cls, log: LogId) -> EventSpans | None:
        """Return the spans of a term; None if this process does not trace."""
        tracing = current()
        return None if tracing is None else cls(tracing, log)

    def converting(self) -> None:
        """Note the time at which the conversion of a transaction begins."""
        self._began = time.time_ns()

    def converted(self, trace: str, collection: str, seq: Seq) -> str | None:
        """Begin the span of an event, whose conversion is done.

        `trace` is the `traceparent` that its write has left. Return the one for the row.
        """
        attributes = {"eventsync.collection": collection, "eventsync.position": f"{self._log}:{seq}"}
        span = self._tracing.begin(f"sequence {collection}", trace, attributes, kind="consumer", at=self._began)
        if span is None:
            return None
        if (conversion := self._tracing.begin(f"convert {collection}", span, {}, at=self._began)) is not None:
            conversion.end()
        self._open[seq] = span, collection
        return span.traceparent

    def give_up(self) -> None:
        """End the spans of events that are not appended: what they were made of is read again."""
        for span, _ in self._open.values():
            span.fail("given_up")
            span.end()
        self._open.clear()

    @contextmanager
    def appending(self, first: Seq, last: Seq) -> Iterator[None]:
        """Trace the insert of the events from `first` to `last`, while the block runs, and end their spans."""
        if not self._open:
            yield
            return
        attributes: dict[str, Any] = {
            "db.system.name": "mongodb",
            "db.collection.name": "events",
            "db.operation.name": "insert",
        }
        if last > first:
            attributes["db.operation.batch.size"] = last - first + 1
        # By their order: what is converted later has greater numbers.
        traced = [self._open.pop(seq) for seq in sorted(self._open) if first <= seq <= last]
        inserts = [
            insert
            for span, collection in traced
            if (insert := self._tracing.begin(f"append {collection}", span, attributes, kind="client")) is not None
        ]
        try:
            with self._tracing.batch(inserts):
                yield
        except BaseException as error:
            for span, _ in traced:
                span.fail(type(error).__name__)
            raise
        finally:
            for span, _ in traced:
                span.end()
