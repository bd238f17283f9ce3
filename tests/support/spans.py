"""Tracing within a test: spans by OpenTelemetry's own SDK, which a test may look at once they have ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from eventsync.tracing import process
from eventsync.tracing.spans import Tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


class EndedSpans:
    """The spans that have ended, by their names."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def names(self) -> list[str]:
        return [span.name for span in self._exporter.get_finished_spans()]

    def all(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [found] = self.all(name)
        return found


def parent_of(span: ReadableSpan) -> str | None:
    """Return the id of a span's parent."""
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    """Return the id of a span."""
    return f"{span.context.span_id:016x}"


@contextmanager
def traced_process() -> Iterator[EndedSpans]:
    """Have this process trace while the block runs."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_tracing", Tracing(provider, owned=True))
        yield EndedSpans(exporter)
