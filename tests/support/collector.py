"""An OpenTelemetry collector: receives spans by OTLP over HTTP, and keeps them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.waiting import within


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it was exported. Ids are hexadecimal, times in nanoseconds."""

    service: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    begin: int
    end: int
    failed: bool
    attributes: dict[str, Any]
    links: tuple[str, ...]
    """The ids of the linked spans."""


class Collector:
    """The spans that were received so far."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.url = ""
        self.spans: list[ReceivedSpan] = []
        self.answers = threading.Event()
        """While it is not set, requests wait for their answer."""
        self.answers.set()
        self.asked = asyncio.Event()
        """Set by the first request."""
        self._loop = loop
        self._changed = asyncio.Event()

    def receive(self, body: bytes) -> None:
        """Take the body of a request, in the thread of its connection."""
        self._loop.call_soon_threadsafe(self.asked.set)
        self.answers.wait()
        self._loop.call_soon_threadsafe(self._keep, spans_of(body))

    def _keep(self, spans: list[ReceivedSpan]) -> None:
        self.spans += spans
        self._changed.set()

    def of(self, trace: str) -> list[ReceivedSpan]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.trace == trace]

    async def until(self, condition: Callable[[], Any], seconds: float = 20.0) -> None:
        """Wait until `condition` holds, which looks at the spans. Raises `AssertionError` with those that have come."""
        try:
            async with within(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            found = Counter(f"{span.trace[:6]} {span.service}: {span.name}" for span in self.spans)
            raise AssertionError(f"waited in vain; the spans that have come: {found}") from None


def spans_of(body: bytes) -> list[ReceivedSpan]:
    """Return the spans in the body of an export."""
    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                times = span.start_time_unix_nano, span.end_time_unix_nano
                links = tuple(link.span_id.hex() for link in span.links)
                attributes = _attributes(span.attributes)
                found.append(
                    ReceivedSpan(service, span.name, span.kind, *ids, *times, span.status.code == 2, attributes, links)
                )
    return found


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a port of its own while the block runs."""
    collector = Collector(asyncio.get_running_loop())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.receive(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    serving = threading.Thread(target=server.serve_forever, name="collector", daemon=True)
    serving.start()
    try:
        yield collector
    finally:
        collector.answers.set()
        await asyncio.to_thread(server.shutdown)
        server.server_close()
