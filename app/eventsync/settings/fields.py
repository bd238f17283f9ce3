"""All settings: those of servers, and here those of workers. Sizes are in bytes and times in seconds unless the name
says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from eventsync.domain.names import check_collection, check_database
from eventsync.errors import Malformed
from eventsync.settings.server_fields import KIB, MIB, Seconds, ServerFields


class Fields(ServerFields):
    """The settings of a process, each with its default, bounds and description, and the checks of single values."""

    # Worker
    health_file: Path | None = Field(
        None,
        description="File that a worker touches every second while its event loop runs, and removes when it ends; a health check tests its age (docs/guides/docker.md). Default: none.",
    )
    worker_host: str = Field(
        "127.0.0.1",
        description="Address of `worker_port`. On any other than loopback, `/metrics` needs `[auth]` in the rules, or `allow_unauthenticated`.",
    )
    worker_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="TCP port on which a worker answers `/healthz`, `/readyz` and `/metrics`; 0 takes a free one, which its log names. Default: none.",
    )
    lease_period: Seconds = Field(
        5.0, ge=0.1, description="Maximum time until a worker that has died is replaced, in seconds."
    )
    stream_wait: float = Field(
        1.0,
        gt=0,
        le=5.0,
        description="Maximum wait of one read of a change stream that returns nothing, in seconds, and at most half of `mongodb_timeout`. A worker or server that is stopped ends its read first.",
    )
    stream_batch: int = Field(
        1000, ge=1, le=100_000, description="Maximum number of changes in one read of the change stream."
    )
    pipeline_bytes: int = Field(
        16 * MIB,
        ge=MIB,
        description="Maximum number of bytes of changes that the worker has read and not yet appended, plus 1 KiB for each change; a single read may exceed it.",
    )
    group_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        description="Maximum number of bytes of one MongoDB transaction, which the worker holds in memory.",
    )
    checkpoint_interval: Seconds = Field(
        1.0, gt=0, description="Interval at which an idle worker records how far it has read, in seconds."
    )
    journal_flush_interval: float = Field(
        0.005,
        ge=0,
        le=0.1,
        description="Interval at which the worker flushes MongoDB's journal while changes wait for it, in seconds; 0: never. Changes wait for up to 0.1 s (mongod's `--journalCommitInterval`) if their writers do not (`w: 1`). The flush is a write with `j: true` that changes nothing.",
    )
    images: bool = Field(
        True, description="Enable pre- and post-images when a collection is tracked. Exact conversion needs them."
    )

    # Snapshots
    snapshot_chunk_bytes: int = Field(
        MIB,
        ge=KIB,
        le=64 * MIB,
        description="Number of bytes before compression that closes a chunk of a stored snapshot; a single document may exceed it.",
    )
    snapshot_period: Seconds = Field(
        86400.0,
        gt=0,
        description="Maximum age of the newest snapshot of a collection with new events, in seconds. The snapshotter then stores another one.",
    )
    snapshot_events: int = Field(
        100_000,
        ge=1,
        description="Number of events since the newest snapshot after which another one is stored. About this many are replayed at most.",
    )
    snapshot_ratio: float = Field(
        1.0,
        gt=0,
        description="Ratio of the bytes of events since the newest snapshot to its own bytes before compression at which another one is stored; see `snapshot_min_events`.",
    )
    snapshot_min_events: int = Field(
        1000, ge=1, description="Number of events below which `snapshot_ratio` does not apply."
    )
    snapshots_kept: int = Field(
        2, ge=1, description="Number of newest snapshots that are kept of each collection and document."
    )
    snapshot_days: int = Field(
        7, ge=0, description="Number of days (UTC), including today, of each of which the last snapshot is also kept."
    )
    pin_ttl: Seconds = Field(
        120.0,
        gt=0,
        description="Time that data is still kept for a reader that has died while reading it, in seconds; must be longer than `send_timeout`.",
    )

    # Tiers
    archive_url: str = Field(
        "",
        description="Where old events are sealed: the absolute path of a directory that all processes share, or `s3://…`, `gs://…`, `az://…` with the credentials in the environment. Without it, or with `none`, they stay in MongoDB until they are no longer kept. `dev` has a directory of its own.",
    )
    hot_events: int = Field(
        1_000_000,
        ge=1,
        description="Number of newest events that stay in MongoDB. Older ones are archived as soon as they fill a segment.",
    )
    hot_age: Seconds = Field(
        604800.0,
        ge=0,
        description="Age from which on events are archived, too, as soon as they fill a segment, in seconds.",
    )
    segment_events: int = Field(50_000, ge=1, description="Number of events that closes an archived segment.")
    segment_bytes: int = Field(
        32 * MIB,
        ge=64 * KIB,
        le=1024 * MIB,
        description="Number of bytes before compression that closes an archived segment; a single transaction may exceed both limits.",
    )
    segment_block_bytes: int = Field(
        256 * KIB,
        ge=KIB,
        description="Number of bytes before compression that closes a block of a segment, which is read at once; a single event may exceed it.",
    )
    segment_cache_bytes: int = Field(
        64 * MIB, ge=0, description="Size of each process's cache of parts of segments, in bytes."
    )
    retention_age: Seconds = Field(
        2592000.0, ge=0, description="Time that events are kept, in seconds; 0 keeps them for ever."
    )
    retention_events: int = Field(0, ge=0, description="Maximum number of events that are kept; 0: no limit.")
    retention_bytes: int = Field(
        0, ge=0, description="Maximum number of bytes of archived events, compressed; 0: no limit."
    )
    squash_age: Seconds = Field(
        7776000.0,
        ge=0,
        description="Time after the removal of events in which a client that needs them can still catch up by the documents that they touched, in seconds; 0 is for ever.",
    )

    # Logging
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum level of log lines.")
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of log lines: `text` for people, or `json`, one object a line, for machines."
    )
    access_log: bool = Field(
        False,
        description="Log each request and each end of a WebSocket: the template of its path, method, status, time, client address and principal, and never the path or query itself.",
    )
    tracing: bool = Field(
        False,
        description="Trace writes by OpenTelemetry, from the request to the delivery of the event. Needs the extra `eventsync[otel]` in each process; the variables `OTEL_…` say where spans go, and how many writes are sampled.",
    )

    @field_validator("collections", "allowed_origins", "allowed_hosts", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("collections", "database", "log_database")
    @classmethod
    def _nameable(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        try:
            return check_database(value) if isinstance(value, str) else tuple(map(check_collection, value))
        except Malformed as error:
            raise ValueError(error.message) from error

    @field_validator("archive_url")
    @classmethod
    def _whole(cls, url: str) -> str:
        if url not in {"", "none"} and "://" not in url and not Path(url).is_absolute():
            raise ValueError("a directory must be an absolute path, because processes start in different directories")
        return url

    @property
    def log_db(self) -> str:
        """The name of the event log's database."""
        return self.log_database or f"{self.database}_eventsync"
