"""The `retry:` field of event streams: the delay before a client reconnects."""

from __future__ import annotations

import random
from typing import Final

from eventsync.domain import protocol
from eventsync.errors import EventsyncError

RETRY: Final = (1000, 3000)
"""Range of milliseconds, to draw from, after which a browser reconnects: after an outage not all return at once."""


def retry_line(error: EventsyncError | None = None) -> bytes:
    """Return the `retry:` field, with jitter; at least an error's own `retry_after`.

    No blank line follows: some clients would take it for an event without data.
    """
    low, high = RETRY
    after = round(1000 * getattr(error, "retry_after", 0.0))
    return b"retry: %d\n" % random.randint(max(low, after), max(high, 2 * after))


def in_band(error: EventsyncError) -> bytes:
    """Return the whole body of a stream that ends at once: the error, and the delay before the client returns.

    It has no `id`, so that the client keeps its last one.
    """
    return retry_line(error) + b"event: error\ndata: %b\n\n" % protocol.error(error)
