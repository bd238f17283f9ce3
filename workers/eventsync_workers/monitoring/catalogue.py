"""The metrics of a worker. `docs/reference/metrics.md` is made of these declarations."""

from __future__ import annotations

from typing import Final

from eventsync.metrics.catalogue import declare

LEADER: Final = declare("eventsync_worker_leader", "gauge", "1 if this worker leads, 0 if it waits or stands by.")
MONGODB_UP: Final = declare(
    "eventsync_worker_mongodb_up", "gauge", "0 while this worker waits for MongoDB, or tries again after a failure."
)
TERMS: Final = declare("eventsync_worker_terms_total", "counter", "Times that this worker has begun to lead.")
EVENTS: Final = declare("eventsync_worker_events_total", "counter", "Events appended to the log, those of repairs too.")
CONVERSION: Final = declare(
    "eventsync_worker_conversion_seconds", "histogram", "Time to convert up to 100 transactions to events."
)
APPEND: Final = declare(
    "eventsync_worker_append_seconds", "histogram", "Time of an insert into the log, until it is majority-committed."
)
LAG_EVENTS: Final = declare(
    "eventsync_worker_lag_events",
    "gauge",
    "Changes that were read and are not in the log yet, even if their insert has failed; more may wait in MongoDB. 0 on a worker that does not lead.",
)
LAG_SECONDS: Final = declare(
    "eventsync_worker_lag_seconds",
    "gauge",
    "Age of the oldest of these changes, by MongoDB's clock; 0 without any. Both clocks must agree.",
)
LAST_READ: Final = declare(
    "eventsync_worker_last_read_timestamp_seconds",
    "gauge",
    "Time of the last successful read of the change stream, in Unix seconds: at most `stream_wait` ago on a leader. Absent before the first one.",
)
REPAIRS: Final = declare(
    "eventsync_worker_repairs_total",
    "counter",
    "Repairs of the log: because the `history` of the change stream was lost, a tracked collection was replaced as a whole (`collection_replaced`), a transaction was too large (`transaction_too_large`), or an earlier repair was `interrupted`.",
    "reason",
)
REPAIR_EVENTS: Final = declare("eventsync_worker_repair_events_total", "counter", "Events that repairs have appended.")
LOGS_BEGUN: Final = declare(
    "eventsync_worker_logs_begun_total",
    "counter",
    "New logs. Each resets all clients, but for the `first` one: `requested` by an operator or a server, of a `foreign` deployment, `lost`, or `damaged`.",
    "reason",
)
JOB_RUNS: Final = declare(
    "eventsync_worker_job_runs_total",
    "counter",
    "Runs of `snapshotting`, `archiving`, `compacting` under this worker's lease, by `result`: `ok`, `failed`.",
    "name",
    "result",
)
JOB_SECONDS: Final = declare("eventsync_worker_job_duration_seconds", "histogram", "Time of such a run.", "name")
JOB_BEGAN: Final = declare(
    "eventsync_worker_job_first_run_timestamp_seconds",
    "gauge",
    "Beginning of the first run, in Unix seconds. Absent before.",
    "name",
)
JOB_SUCCESS: Final = declare(
    "eventsync_worker_job_last_success_timestamp_seconds",
    "gauge",
    "End of the last successful run, in Unix seconds. Absent before.",
    "name",
)
SNAPSHOTS_MADE: Final = declare("eventsync_worker_snapshots_total", "counter", "Snapshots that were stored.")
SNAPSHOT_DOCUMENTS: Final = declare("eventsync_worker_snapshot_documents_total", "counter", "Documents in them.")
SNAPSHOT_BYTES: Final = declare("eventsync_worker_snapshot_bytes_total", "counter", "Their bytes, compressed.")
SEALED_EVENTS: Final = declare(
    "eventsync_worker_sealed_events_total", "counter", "Events that were sealed into segments of the archive."
)
SEALED_BYTES: Final = declare("eventsync_worker_sealed_bytes_total", "counter", "Bytes of these segments, compressed.")
REMOVED_SEGMENTS: Final = declare(
    "eventsync_worker_removed_segments_total", "counter", "Segments whose events are no longer kept, and were removed."
)

REPAIR_REASONS: Final = ("history", "collection_replaced", "transaction_too_large", "interrupted")
LOG_REASONS: Final = ("first", "requested", "foreign", "lost", "damaged")
"""Values of `reason`. Each has a 0 before its first step, which an increase could not be seen without."""
