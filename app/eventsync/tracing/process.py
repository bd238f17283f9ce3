"""The tracing of this process: whether there is any, its start and its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from eventsync.errors import ConfigurationError

if TYPE_CHECKING:  # it imports OpenTelemetry
    from eventsync.tracing.spans import Tracing

_SPANS: Final = "eventsync.tracing.spans"
_FLUSH: Final = 2.0
"""Seconds at the end in which spans are still exported. A collector that does not answer delays no shutdown further."""

_MISSING: Final = "tracing is true, and OpenTelemetry is not installed: pip install 'eventsync[otel]'"

_tracing: Tracing | None = None


def current() -> Tracing | None:
    """Return the tracing of this process; None if it does not trace."""
    return _tracing


def carried() -> str | None:
    """Return the `traceparent` that a write of the running request carries; None if it is not traced."""
    return None if _tracing is None else _tracing.carried()


def require() -> None:
    """Raise `ConfigurationError` if OpenTelemetry is not installed, or can't be set up by its variables."""
    _spans().check()


@asynccontextmanager
async def running(service: str, *, enabled: bool) -> AsyncIterator[None]:
    """Trace while the block runs, if `enabled`, as the service `service` unless OTEL_SERVICE_NAME says otherwise.

    Where the host application has set up OpenTelemetry, its exporter gets the spans. In a process that traces already,
    this does nothing. Raises as `require`.
    """
    global _tracing  # noqa: PLW0603 - a process has one tracing, as it has one log
    if not enabled or _tracing is not None:
        yield
        return
    spans = _spans()
    spans.check()
    _tracing = spans.Tracing.of_host() or spans.Tracing.exporting(service)
    try:
        yield
    finally:
        ended, _tracing = _tracing, None
        # The exporter may be in the middle of a request that nobody answers, which nothing interrupts.
        flushing = threading.Thread(target=ended.shutdown, name="flush spans", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, _FLUSH)


def _spans() -> Any:
    try:
        return import_module(_SPANS)
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error
