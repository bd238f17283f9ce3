"""Spans of OpenTelemetry. The only module that imports it; `process` imports this one when a process traces.

Sources: https://opentelemetry.io/docs/specs/semconv/http/http-spans/, …/database/database-spans/ and
…/messaging/messaging-spans/. Against the first, a span of a request has no path and no query: ids, filters and tickets
are not for everybody who reads traces, as in the access log.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from eventsync import __version__
from eventsync.errors import ConfigurationError

Attributes = Mapping[str, str | int]

MAX_LINKS: Final = 100
"""Links of one span to others of its batch."""

WRITES: Final = 100
"""Writes of one request that carry its context: a batch of thousands would make as many spans in each process."""

_LETTERS: Final = 55
"""The length of a `traceparent` of version 00."""

_PROTOCOL: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_W3C: Final = TraceContextTextMapPropagator()
_NOWHERE: Final = Context()
_WRITES_LEFT: Final = contexts.create_key("eventsync-writes-left")


def check() -> None:
    """Raise `ConfigurationError` for a variable that asks for another protocol than that of our exporter."""
    name = next((name for name in _PROTOCOL if os.environ.get(name)), None)
    if name is not None and os.environ[name] != "http/protobuf":
        raise ConfigurationError(f"{name} is {os.environ[name]!r}; eventsync exports traces by http/protobuf only")


def _context_of(traceparent: str) -> Context | None:
    """Return the context that a stored `traceparent` names; None for any other text."""
    if len(traceparent) != _LETTERS:
        return None
    found = _W3C.extract({"traceparent": traceparent}, context=_NOWHERE)
    return found if trace.get_current_span(found).get_span_context().is_valid else None


class TraceSpan:
    """A span that has begun. Times are in nanoseconds of the Unix epoch; without one, it is now."""

    __slots__ = ("inner",)

    def __init__(self, span: trace.Span) -> None:
        self.inner = span

    @property
    def trace_id(self) -> str | None:
        """The id of the trace, 32 hexadecimal digits; None where OTEL_SDK_DISABLED has it that there is no trace."""
        context = self.inner.get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid else None

    @property
    def traceparent(self) -> str | None:
        """The context for what this span causes elsewhere; None if it is not sampled."""
        context = self.inner.get_span_context()
        if not context.trace_flags.sampled:
            return None
        return f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}-01"

    def set(self, attributes: Attributes) -> None:
        """Set attributes."""
        self.inner.set_attributes(attributes)

    def link(self, others: Iterable[TraceSpan]) -> None:
        """Link up to `MAX_LINKS` spans that share the work of this one."""
        for other in islice(others, MAX_LINKS):
            self.inner.add_link(other.inner.get_span_context())

    def fail(self, kind: str) -> None:
        """Mark the span as failed, by an error of this kind."""
        self.inner.set_attribute("error.type", kind)
        self.inner.set_status(StatusCode.ERROR)

    def end(self, at: int | None = None) -> None:
        """End the span."""
        self.inner.end(at)


class RequestSpan(TraceSpan):
    """The span of a request. Until its end it is the current span of its task."""

    __slots__ = ("_token",)

    def __init__(self, span: trace.Span) -> None:
        super().__init__(span)
        current = trace.set_span_in_context(span)
        self._token = contexts.attach(contexts.set_value(_WRITES_LEFT, [WRITES], current))

    def answered(self, route: str, method: str, status: str) -> None:
        """End the span, with the template of the path, and the status or a word in place of it."""
        self.inner.update_name(f"{method} {route}")
        self.inner.set_attribute("http.route", route)
        if status.isdecimal():
            self.inner.set_attribute("http.response.status_code", int(status))
            if int(status) >= HTTPStatus.INTERNAL_SERVER_ERROR:
                self.fail(status)
        else:
            self.fail("unanswered")
        self.inner.end()
        contexts.detach(self._token)


class Tracing:
    """Begins spans."""

    def __init__(self, provider: trace.TracerProvider, *, owned: bool) -> None:
        """`owned`: shut the provider down at the end."""
        self._provider = provider
        self._owned = owned
        self._tracer = provider.get_tracer("eventsync", __version__)

    @classmethod
    def of_host(cls) -> Tracing | None:
        """Return tracing by the provider of the host application, if that has one."""
        provider = trace.get_tracer_provider()
        return cls(provider, owned=False) if isinstance(provider, TracerProvider) else None

    @classmethod
    def exporting(cls, service: str) -> Tracing:
        """Return tracing that exports by OTLP over HTTP. The variables `OTEL_…` say where, and how much."""
        instance = f"{socket.gethostname()}:{os.getpid()}"
        ours = {"service.name": service, "service.version": __version__, "service.instance.id": instance}
        # What the variables say comes before it.
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        # Without the hook at exit, which would wait for the collector for half a minute.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        # Bounded: where the collector is too slow, spans are dropped and a warning says so.
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider, owned=True)

    def shutdown(self) -> None:
        """Export what has ended. Blocks for up to half a minute if the collector does not answer."""
        if self._owned and isinstance(self._provider, TracerProvider):
            self._provider.shutdown()

    def request(self, scope: Mapping[str, Any], method: str) -> RequestSpan:
        """Begin the span of a request by its ASGI scope, as part of the trace that its headers name.

        `method` is that of the request, or one word for all that are unknown.
        """
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in {b"traceparent", b"tracestate"}
        }
        # A host that traces has begun a span of the request already.
        parent = None if trace.get_current_span().get_span_context().is_valid else _W3C.extract(carrier)
        attributes: dict[str, str | int] = {"http.request.method": method, "url.scheme": scope["scheme"]}
        if version := scope.get("http_version"):
            attributes["network.protocol.version"] = version
        if (server := scope.get("server")) and server[1] is not None:
            attributes |= {"server.address": server[0], "server.port": server[1]}
        # A sampler that goes by the name gets no more than this: the route is found later.
        span = self._tracer.start_span(method, parent, SpanKind.SERVER, attributes)
        return RequestSpan(span)

    def carried(self) -> str | None:
        """Return the context that one more write of the running request carries; None if it is not traced."""
        context = TraceSpan(trace.get_current_span()).traceparent
        left = contexts.get_value(_WRITES_LEFT)
        if context is None or not isinstance(left, list):
            return context
        left[0] -= 1
        return context if left[0] >= 0 else None

    def begin(
        self,
        name: str,
        parent: str | TraceSpan,
        attributes: Attributes,
        *,
        kind: str = "internal",
        at: int | None = None,
    ) -> TraceSpan | None:
        """Begin a span, unless `parent` is a text that names no context.

        `kind` is one of OpenTelemetry's in lower case.
        """
        if isinstance(parent, TraceSpan):
            context: Context | None = trace.set_span_in_context(parent.inner, _NOWHERE)
        else:
            context = _context_of(parent)
        if context is None:
            return None
        return TraceSpan(self._tracer.start_span(name, context, SpanKind[kind.upper()], attributes, start_time=at))

    @contextmanager
    def batch(self, spans: list[TraceSpan]) -> Iterator[None]:
        """Link the first of the spans that share one command with the others, and end them with the block."""
        if spans:
            spans[0].link(spans[1:])
        for other in spans[1:]:
            other.link(spans[:1])
        try:
            yield
        except BaseException as error:
            for span in spans:
                span.fail(type(error).__name__)
            raise
        finally:
            now = time.time_ns()
            for span in spans:
                span.end(now)
