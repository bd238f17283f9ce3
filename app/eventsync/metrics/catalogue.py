"""The metrics of a server and of every process. `docs/reference/metrics.md` is made of these declarations.

No label has values without a bound: no client, document, path or subject is one. `{collection}` is bounded by the
collections that an operator tracks. No label is `job` or `instance`, which Prometheus gives to each target.
"""

from __future__ import annotations

from typing import Final

from eventsync.metrics.figures import Kind, Labels, Merge, Metric

ALL: Final[dict[str, Metric]] = {}
"""Every declared metric, by name."""


def declare(name: str, kind: Kind, text: str, *labels: str, merge: Merge = "sum") -> Metric:
    """Declare a metric. Raises `ValueError` for a name that is declared already."""
    if name in ALL:
        raise ValueError(f"{name} is declared twice")
    metric = ALL[name] = Metric(name, kind, text, Labels(labels), merge)
    return metric


# --- every process ---------------------------------------------------------------------------------------------------

BUILD_INFO: Final = declare(
    "eventsync_build_info", "gauge", "1, with the version of eventsync and of Python.", "version", "python", merge="max"
)
LOOP_LAG: Final = declare(
    "eventsync_event_loop_lag_seconds",
    "histogram",
    "Delay of a timer of the event loop, four times a second: how long something held the loop.",
)
PROCESS: Final = (
    declare("process_cpu_seconds_total", "counter", "Processor time, user and system, of the process itself."),
    declare("process_resident_memory_bytes", "gauge", "Resident memory."),
    declare("process_virtual_memory_bytes", "gauge", "Virtual memory."),
    declare("process_open_fds", "gauge", "Open file descriptors."),
    declare("process_max_fds", "gauge", "Limit on open file descriptors.", merge="min"),
    declare("process_start_time_seconds", "gauge", "Start, in Unix seconds; the oldest process's.", merge="min"),
)

# --- requests and connections ----------------------------------------------------------------------------------------

PROCESSES: Final = declare("eventsync_processes", "gauge", "Server processes that this scrape tells of.", merge="max")
REQUESTS: Final = declare(
    "eventsync_http_requests_total",
    "counter",
    "Answered requests. `route` is the path's template, or `none` for a request that came to no route; `status` is `none` where the client left before its answer.",
    "route",
    "method",
    "status",
)
REQUEST_SECONDS: Final = declare(
    "eventsync_http_request_duration_seconds",
    "histogram",
    "Time from a request's head to the beginning of its answer, with the time that a poll was asked to wait.",
    "route",
    "method",
)
SOCKETS: Final = declare("eventsync_sockets", "gauge", "Open TCP connections. Absent below another application.")
SOCKETS_REFUSED: Final = declare(
    "eventsync_sockets_refused_total",
    "counter",
    "TCP connections over `max_sockets` or `max_sockets_per_address`. Absent below another application.",
)
SLOW_CLIENTS: Final = declare(
    "eventsync_slow_clients_total",
    "counter",
    "Clients that were disconnected because they did not read in time. Absent below another application.",
)
CONNECTIONS: Final = declare(
    "eventsync_connections",
    "gauge",
    "Open sync connections, by `transport`: `websocket`, `sse`, `poll` (those that wait).",
    "transport",
)
SESSIONS: Final = declare("eventsync_sessions_total", "counter", "Sync connections that have begun.", "transport")
HELD_BYTES: Final = declare("eventsync_held_bytes", "gauge", "Bytes that the requests in progress hold (`held_bytes`).")
WAITING: Final = declare(
    "eventsync_waiting",
    "gauge",
    "Clients that wait their turn to `begin` (snapshot, squashed) or to `read` events behind the window.",
    "for",
)
REFUSED: Final = declare(
    "eventsync_refused_total",
    "counter",
    "Requests that were refused because of a limit: to `begin` and to `read` as above; `bytes` (`held_bytes`); `writes` whose delay would be longer than `write_queue_delay`; `clients` that are not remembered; `principals` over their budget (`principal_…`); `tokens` from addresses with too many wrong signatures.",
    "for",
)
AUTHENTICATIONS: Final = declare(
    "eventsync_authentications_total",
    "counter",
    "Requests and live connections with a good token, ticket or service key.",
)
ACCESS_REFUSED: Final = declare(
    "eventsync_access_refused_total",
    "counter",
    "Requests, and shapes of live connections, refused because of rules or credentials: `token_missing`, `token_expired`, `token_invalid`, `token_revoked`, `subject_changed`, `not_granted` (nothing of the collection may be read), `not_operator`, `rule` and `fixed` (writes), `hidden` (writes, filters, and parameters of shapes), `claim` (a parameter that is a claim), `policy`. The log has a line `refused: …` for each kind, at most once a minute.",
    "reason",
)

# --- writes ----------------------------------------------------------------------------------------------------------

WRITES: Final = declare(
    "eventsync_writes_total",
    "counter",
    "Writes of documents by the API, by their result: `ok`, or the code of the error, such as `conflict` or `version_mismatch`. A transaction is one.",
    "result",
)
WRITE_SECONDS: Final = declare(
    "eventsync_write_duration_seconds", "histogram", "Time of a write in MongoDB and in the queue before it."
)
WRITE_RETRIES: Final = declare(
    "eventsync_write_retries_total",
    "counter",
    "Attempts of writes that were lost against other writers, and made again.",
)
WRITES_WAITING: Final = declare("eventsync_writes_waiting", "gauge", "Writes in progress.")
WRITE_DELAY: Final = declare("eventsync_write_delay_seconds", "gauge", "Expected delay of a new write.", merge="max")

# --- delivery --------------------------------------------------------------------------------------------------------

PUBLISHED: Final = declare("eventsync_published_events_total", "counter", "Events of the log that came to the window.")
DELIVERIES: Final = declare(
    "eventsync_deliveries_total",
    "counter",
    "Events times clients: written to caught-up connections (`direct`), sent in `events` messages of a session's own (`session`), or returned by polls (`poll`).",
    "way",
)
DELIVERY_SECONDS: Final = declare(
    "eventsync_delivery_delay_seconds",
    "histogram",
    "Time from the commit of a change, by MongoDB's clock, until its event was handed to all caught-up connections. Of events that were published together, the oldest counts. Both clocks must agree.",
)
ANSWERS: Final = declare(
    "eventsync_answers_total",
    "counter",
    "Answers that were chosen to bring a subscription up to date: `events`, `squashed`, `snapshot`.",
    "kind",
)
RESETS: Final = declare(
    "eventsync_resets_total",
    "counter",
    "Positions that could not be continued from: `unknown_log`, `future`, `before_horizon`, `damaged`, `scope_changed`.",
    "reason",
)
FEED_LIVE: Final = declare("eventsync_feed_live", "gauge", "1 if the server follows the log.", merge="min")
FEED_INTERRUPTED: Final = declare(
    "eventsync_feed_interruptions_total", "counter", "Times that the server stopped following the log, and tried again."
)
STALE: Final = declare("eventsync_stale", "gauge", "1 if no worker has read the changes lately.", merge="max")
WINDOW_BYTES: Final = declare("eventsync_window_bytes", "gauge", "Bytes of the window.")
WINDOW_FLOOR: Final = declare(
    "eventsync_window_floor", "gauge", "Events after this seq are in the window.", merge="max"
)
WINDOW_HEAD: Final = declare("eventsync_window_head", "gauge", "Newest event of the window, by seq.", merge="min")
OLDEST_SEQ: Final = declare(
    "eventsync_oldest_client_seq",
    "gauge",
    "Position of the connected client that is furthest behind; with several processes, as of 10 s ago.",
    merge="min",
)
OLDEST_LAG: Final = declare(
    "eventsync_oldest_client_lag_events", "gauge", "Events between that client and the window's head.", merge="max"
)
SHAPES: Final = declare(
    "eventsync_shapes",
    "gauge",
    "Declared shapes that are `active`, `waiting` for a worker or for their collection to be tracked, or `refused`.",
    "state",
    merge="max",
)
SHAPE_DELAY: Final = declare(
    "eventsync_shape_activation_delay_seconds",
    "gauge",
    "How long the first of the shapes that wait has waited, as the server has seen it; 0 if none waits.",
    merge="max",
)

# --- the log, the same on every server -------------------------------------------------------------------------------

MONGODB_UP: Final = declare(
    "eventsync_mongodb_up",
    "gauge",
    "1 if MongoDB has answered within 3 s; else the metrics below are absent. They may be 5 s old.",
    merge="min",
)
ARCHIVE_UP: Final = declare(
    "eventsync_archive_up",
    "gauge",
    "1 if the archive can be read, checked at most every 10 s. Absent without an archive.",
    merge="min",
)
JOB_HELD: Final = declare(
    "eventsync_job_held",
    "gauge",
    "1 if a worker holds the lease of `sequencing`, `snapshotting`, `archiving`, `compacting`.",
    "name",
)
RECORDS: Final = declare(
    "eventsync_records",
    "gauge",
    "Records that requests leave in MongoDB: `idempotency_keys`, `clients` (state vectors), `pins`, `snapshot_requests`, `touched` documents.",
    "of",
)
RECORDS_BYTES: Final = declare("eventsync_records_bytes", "gauge", "Bytes of these records, before compression.", "of")
LOG_HEAD: Final = declare("eventsync_log_head", "gauge", "Newest event of the log, by seq.")
LOG_FLOOR: Final = declare("eventsync_log_floor", "gauge", "Events up to this seq have left MongoDB.")
LOG_HORIZON: Final = declare("eventsync_log_horizon", "gauge", "Events up to this seq are not kept any more.")
SQUASH_FLOOR: Final = declare("eventsync_log_squash_floor", "gauge", "Positions below this seq get a snapshot.")
TIER_EVENTS: Final = declare(
    "eventsync_tier_events", "gauge", "Events of the log: `hot` in MongoDB, `cold` in the archive.", "tier"
)
TIER_BYTES: Final = declare(
    "eventsync_tier_bytes", "gauge", "Bytes of these events: `hot` in BSON, estimated; `cold` compressed.", "tier"
)
SEGMENTS: Final = declare("eventsync_segments", "gauge", "Segments of the log on object storage.")
JOURNAL_DELAY: Final = declare(
    "eventsync_journal_delay_seconds",
    "gauge",
    "How long changes of writers with `w: 1` waited for MongoDB's journal before the worker began to flush it for them; 0 while it does not.",
)
UNROUTED: Final = declare(
    "eventsync_unrouted_events_total",
    "counter",
    "Changes that left a document in no route of some declared shape, because it has more than 1,000 keys of it or can't be read; the worker's log names each document (`ALARM`). Counted by the snapshotter, seconds later; absent without one.",
    "collection",
)
SNAPSHOTS: Final = declare("eventsync_snapshots", "gauge", "Stored snapshots of the log.")
SNAPSHOTS_BYTES: Final = declare("eventsync_snapshots_bytes", "gauge", "Bytes of the stored snapshots, compressed.")
SNAPSHOT_AGE: Final = declare(
    "eventsync_snapshot_age_seconds", "gauge", "Age of a collection's newest snapshot.", "collection"
)
SNAPSHOT_SEQ: Final = declare(
    "eventsync_snapshot_seq", "gauge", "Position of a collection's newest snapshot.", "collection"
)
