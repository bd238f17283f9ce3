"""The `retry:` field of event streams: how soon a client is to come back."""

from __future__ import annotations

import random
from typing import Final

from eventsync.domain import protocol
from eventsync.errors import EventsyncError

RETRY: Final = (1000, 3000)
"""Milliseconds after which a browser reconnects, drawn between these: an outage must not bring all back at once."""


def retry_line(error: EventsyncError | None = None) -> bytes:
    """Return the `retry:` field, with jitter. An error's own `retry_after` is the least that it says.

    No blank line follows: some clients would take that for an event without data.
    """
    low, high = RETRY
    after = round(1000 * getattr(error, "retry_after", 0.0))
    return b"retry: %d\n" % random.randint(max(low, after), max(high, 2 * after))


def in_band(error: EventsyncError) -> bytes:
    """Return the whole body of a stream that ends before it has begun: when to come back, and why.

    It has no `id`, so that the client keeps the one that it goes on from.
    """
    return retry_line(error) + b"event: error\ndata: %b\n\n" % protocol.error(error)
