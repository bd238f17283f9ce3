"""Traces by OpenTelemetry: one trace from the request that writes a document to the delivery of its event.

    PATCH /v1/collections/{collection}/documents/{id}   the server that got the request
    ├─ commit orders                                    the same, until a majority has the write
    └─ sequence orders                                  the worker, until the event is appended
       ├─ convert orders
       ├─ append orders
       └─ deliver orders                                each server that follows the log

The context travels with the data: the stamp of the document has it (`_sync.t`), and the row of the event (`p`), both as
a W3C `traceparent`. Neither an event's body nor anything else that clients get has it. It is written only for a write
that is sampled, by a process that traces.

A process traces if the setting `tracing` is true. Otherwise nothing of OpenTelemetry is imported, and `current` returns
None. The rest is up to the standard variables of OpenTelemetry, `OTEL_…`.
"""

__all__ = ["process", "spans"]
