"""The only reader of the environment and of the configuration file.

Every setting comes from `EVENTSYNC_<NAME>` or from the TOML file, in this order; a command's own options outrank both.
The file is `$EVENTSYNC_CONFIG`, else `eventsync.toml` in the current directory, else the one that a running
`eventsync dev` leaves in `.eventsync/`. A command (not `serve` or `worker`) that finds none of them, and is given no
connection string, takes that of the one `dev` that this user runs elsewhere. Sizes are in bytes and times in seconds unless the name says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from eventsync import running_dev
from eventsync.domain.shapes import MAX_DATABASE_BYTES, check_collection, check_database
from eventsync.environment import check_environment, suggestion
from eventsync.errors import ConfigurationError, Malformed

PREFIX = "EVENTSYNC_"
KIB, MIB = 1024, 1024 * 1024
_CONFIG: Final = f"{PREFIX}CONFIG"  # names the configuration file: the one variable that is no setting

Names = Annotated[tuple[str, ...], NoDecode]
"""A list that the environment writes as `a,b`."""


class Settings(BaseSettings):
    """One frozen object for a whole process. `eventsync settings` prints it with the descriptions below."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", allow_inf_nan=False)

    config_files: ClassVar[tuple[Path, ...]] = (Path("eventsync.toml"), Path(".eventsync/eventsync.toml"))
    finds_dev: ClassVar[bool] = False
    """Where there is no file, look for a `dev` that runs elsewhere."""

    # MongoDB
    mongodb_uri: str | None = Field(
        None,
        description="MongoDB connection string of a replica set, 6.0 or newer. Required by every process but `dev`.",
    )
    database: str = Field(
        "app",
        min_length=1,
        max_length=38,
        description="Database with the tracked collections.",
    )
    log_database: str = Field(
        "", description="Database for the event log; never the same as `database`. Default: `<database>_eventsync`."
    )
    collections: Names = Field(
        (),
        description="Collections to track when a worker starts, comma separated; `eventsync track` adds more at run time.",
    )
    mongodb_timeout: float = Field(
        10.0,
        gt=0,
        description="Longest wait for MongoDB in one operation: server selection, connect and socket, in seconds.",
    )
    mongodb_pool_size: int = Field(
        50, ge=5, description="Most connections to MongoDB that the writes and reads of one process use."
    )

    # HTTP
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; `0.0.0.0` is all of IPv4, `::` all of IPv6 and IPv4. Everything but loopback exposes an API without authentication: put a proxy before it.",
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    reuse_port: bool = Field(
        False,
        description="Other servers that have this setting too may listen on the same port: the system divides new connections among them (SO_REUSEPORT).",
    )
    allowed_origins: Names = Field(
        (),
        description="Origins (`https://app.example`) that browsers may connect from besides the server's own; `*` allows all.",
    )
    allowed_hosts: Names = Field(
        (),
        description="Names that a request's `Host` may have; `*` allows all. `localhost` and IP addresses are always allowed: DNS rebinding needs a name. `/healthz`, `/readyz` and `/metrics` answer under any name.",
    )
    trusted_proxies: Names = Field(
        ("127.0.0.1", "::1"),
        description="Addresses or networks of proxies whose `X-Forwarded-Proto` is believed; `*` believes all. It tells the scheme that an `Origin` is compared with.",
    )
    body_bytes: int = Field(
        MIB,
        ge=KIB,
        le=16 * MIB,
        description="Largest request body, in bytes. A body in chunks may be sent in twice as many, chunk sizes, extensions and trailers included.",
    )
    head_bytes: int = Field(64 * KIB, ge=KIB, description="Largest head (line and headers) of a request, in bytes.")
    head_fields: int = Field(128, ge=16, description="Most header fields in the head of a request.")
    head_timeout: float = Field(
        10.0, gt=0, description="How long a request's head may take to arrive, and the first one to begin, in seconds."
    )
    keep_alive: float = Field(
        75.0,
        gt=0,
        description="How long an HTTP connection stays open between requests, in seconds. Longer than a proxy's in front of it.",
    )
    max_sockets: int = Field(
        12_000,
        ge=1,
        description="Most TCP connections of one server process, of any kind; further ones are told to come back later (event streams and WebSockets in band, all else by 503) and closed.",
    )
    max_sockets_per_address: int = Field(
        0,
        ge=0,
        description="Most of them from one address; 0: no such limit. A proxy in front has one address for all its clients.",
    )
    body_timeout: float = Field(30.0, gt=0, description="How long a request body may take to arrive, in seconds.")
    request_timeout: float = Field(
        12.0,
        gt=0,
        description="Longest time from the last byte of a request to the first byte of its answer, in seconds, the `wait` of a poll not counted; then it is answered 503. Longer than `write_deadline`, which says whether anything was written.",
    )
    patch_operations: int = Field(1000, ge=1, description="Most operations in one JSON Patch.")
    patch_steps: int = Field(
        10_000_000,
        ge=1000,
        description="Most work of one JSON Patch, in values that it visits or copies; more is refused as `too_complex`.",
    )
    offload_above: int = Field(
        64 * KIB,
        ge=0,
        description="Work on more bytes of documents and request bodies than this is done by a helper process, so that it delays no other client; each byte of a body counts as eight.",
    )
    offload_processes: int = Field(
        2,
        ge=1,
        le=64,
        description="Most helper processes of each server process and worker; they are started when needed.",
    )
    offload_waiting_bytes: int = Field(
        128 * MIB,
        ge=MIB,
        description="Most bytes of documents and bodies that helper processes work on or that wait for them; further requests are answered 503. One request may exceed it.",
    )
    offload_timeout: float = Field(
        20.0,
        gt=0,
        description="Longest time that a helper process works on one request, in seconds; then it is refused as `too_complex`.",
    )
    document_bytes: int = Field(
        15 * MIB,
        ge=KIB,
        le=16 * MIB - 16 * KIB,
        description="Largest document that a write may produce, in bytes of BSON.",
    )
    transaction_bytes: int = Field(
        64 * MIB,
        ge=1,
        description="Most bytes of the documents in one transaction, counted once for each operation; more is answered 413. MongoDB's cache holds them until the transaction ends.",
    )
    transaction_operations: int = Field(
        100, ge=1, le=1000, description="Most operations in one `POST /v1/transactions`."
    )
    page_documents: int = Field(1000, ge=1, description="Most documents or events in one page of a listing.")
    page_bytes: int = Field(
        4 * MIB,
        ge=KIB,
        le=256 * MIB,
        description="A page of a listing is closed when it has this many bytes; its last document, event or client may exceed it.",
    )
    held_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        description="Most bytes that the requests of one server process hold together (bodies, documents that are read, answers that are not sent yet), beyond 64 KiB each; further ones are answered 503.",
    )
    principal: str = Field(
        "anonymous",
        max_length=256,
        description="Who writes through this API, as `by` records it, until authentication names somebody.",
    )

    # Writing
    write_attempts: int = Field(
        100, ge=1, description="Most attempts of one write against concurrent writers before it answers 409."
    )
    write_deadline: float = Field(10.0, gt=0, description="Longest time that one write keeps trying, in seconds.")
    operation_ttl: float = Field(86400.0, gt=0, description="How long an idempotency key is remembered, in seconds.")
    operation_keys: int = Field(
        10_000_000,
        ge=1,
        description="Most idempotency keys that are remembered; a write with a new key is then answered 429. Processes count anew every 5 s, and may exceed it in between.",
    )
    operation_bytes: int = Field(
        4096 * MIB, ge=MIB, description="Most bytes of the records of idempotency keys; then as for `operation_keys`."
    )

    # Syncing
    heartbeat: float = Field(
        25.0, gt=0, description="A connection with nothing to say sends `progress` this often, in seconds."
    )
    hello_timeout: float = Field(
        10.0, gt=0, description="How long a WebSocket may stay silent before its `hello`, in seconds."
    )
    send_timeout: float = Field(
        30.0, gt=0, description="A client that does not take a frame within this time is closed, resumably, in seconds."
    )
    message_bytes: int = Field(64 * KIB, ge=KIB, description="Largest message from a client, in bytes.")
    message_rate: float = Field(
        100.0,
        gt=0,
        description="Messages that a WebSocket client may send in a second, on average over ten. Who sends more is closed.",
    )
    max_connections: int = Field(
        10_000, ge=1, description="Most open WebSocket and SSE connections of one server process."
    )
    max_shapes: int = Field(100, ge=1, description="Most shapes on one connection, and entries in one state vector.")
    max_bootstraps: int = Field(
        200,
        ge=1,
        description="Most clients of one server process that take a snapshot or a squashed answer at a time, each at its own pace; further ones wait their turn.",
    )
    max_reads: int = Field(
        16,
        ge=1,
        description="Most frames for clients behind the window, and chunks of stored snapshots, that one server process reads at a time; further ones wait their turn.",
    )
    max_waiting: int = Field(
        5000,
        ge=0,
        description="Most clients that wait for their turn to begin, and most that wait to be brought on; further ones are told to come back later.",
    )
    frame_cache_bytes: int = Field(
        32 * MIB,
        ge=0,
        description="Frames read for clients behind the window that are kept in each server's memory, for the next ones there, in bytes.",
    )
    past_cache_bytes: int = Field(
        16 * MIB,
        ge=0,
        description="Past states of documents, and as much again of pages of their histories, kept in each server's memory for the next readers, in bytes.",
    )
    snapshot_cache_bytes: int = Field(
        64 * MIB,
        ge=0,
        description="Chunks of stored snapshots kept unpacked in each server's memory, for the next clients that begin with them, in bytes.",
    )
    stale_after: float = Field(
        10.0,
        gt=0,
        description="Clients, `/readyz` and `/metrics` say that the worker is stale when it has made no progress for this long, in seconds.",
    )
    poll_wait: float = Field(60.0, ge=0, description="Longest `wait` of an HTTP long poll, in seconds.")
    window_bytes: int = Field(
        64 * MIB, ge=64 * KIB, description="Newest events kept encoded in each server's memory, in bytes."
    )
    frame_bytes: int = Field(
        256 * KIB,
        ge=KIB,
        description="A frame is closed when it has this many bytes; one event or one transaction may exceed it.",
    )
    frame_events: int = Field(
        1000, ge=1, description="Most events in one frame or log page; one transaction may exceed it."
    )
    ack_interval: float = Field(
        1.0,
        gt=0,
        description="What a client acknowledges is stored at most this much later, together with other clients', in seconds.",
    )
    client_shapes: int = Field(
        1000, ge=1, description="Most positions stored of one client: those that it acknowledged furthest on are kept."
    )
    max_clients: int = Field(
        1_000_000,
        ge=1,
        description="Most clients whose state vectors are stored. Nothing is stored of further ones: `welcome` says `remembered: false`, `PUT` is answered 429. Processes count anew every 5 s, and may exceed it in between.",
    )
    client_bytes: int = Field(
        4096 * MIB, ge=MIB, description="Most bytes of stored state vectors; then as for `max_clients`."
    )
    client_ttl: float = Field(
        2592000.0,
        gt=0,
        description="A client that was not seen for this long is forgotten, with the vector that is stored for it, in seconds.",
    )
    drain_timeout: float = Field(
        10.0, gt=0, description="At shutdown, how long clients get to take their goodbye, in seconds."
    )
    ready_timeout: float = Field(
        30.0,
        gt=0,
        description="With several server processes, how long a new one may take until it serves clients before the restart is given up and the old one stays, in seconds.",
    )

    # Worker
    health_file: Path | None = Field(
        None,
        description="File that a worker touches every second while its event loop runs, and removes when it ends; a health check looks at its age (docs/guides/docker.md). Default: none.",
    )
    lease_period: float = Field(
        5.0, gt=0, description="A worker that dies is replaced after this long at the latest, in seconds."
    )
    stream_wait: float = Field(
        1.0, gt=0, le=5.0, description="How long one empty read of the change stream waits, in seconds."
    )
    stream_batch: int = Field(1000, ge=1, le=100_000, description="Most changes in one read of the change stream.")
    pipeline_bytes: int = Field(
        16 * MIB,
        ge=MIB,
        description="Most bytes of changes that the worker has read and not yet appended, 1 KiB more for each; one read may exceed it.",
    )
    group_bytes: int = Field(
        256 * MIB, ge=MIB, description="Most bytes of one MongoDB transaction that the worker holds at once."
    )
    checkpoint_interval: float = Field(
        1.0, gt=0, description="How often an idle worker records how far it has read, in seconds."
    )
    images: bool = Field(
        True, description="Switch on pre- and post-images when a collection is tracked. Exact conversion needs them."
    )

    # Snapshots
    snapshot_chunk_bytes: int = Field(
        MIB,
        ge=KIB,
        le=64 * MIB,
        description="A stored snapshot's chunk is closed when it has this many bytes before compression; one document may exceed it.",
    )
    snapshot_period: float = Field(
        86400.0,
        gt=0,
        description="A collection with new events gets a snapshot this long after its last one, in seconds.",
    )
    snapshot_events: int = Field(
        100_000, ge=1, description="Or once it has this many events since then: what is replayed at most, about."
    )
    snapshot_ratio: float = Field(
        1.0,
        gt=0,
        description="Or once the events since then have this many times the bytes of that snapshot, before compression; see `snapshot_min_events`.",
    )
    snapshot_min_events: int = Field(
        1000, ge=1, description="Fewer events are never too many for their snapshot's size, however small that is."
    )
    snapshots_kept: int = Field(2, ge=1, description="Newest snapshots that are kept of each collection and document.")
    snapshot_days: int = Field(
        7, ge=0, description="Besides, the last snapshot of each of this many days (UTC) is kept, today included."
    )
    pin_ttl: float = Field(
        120.0,
        gt=0,
        description="What a reader that has died was reading is kept for it this long, in seconds; always longer than `send_timeout`.",
    )

    # Tiers
    archive_url: str = Field(
        "",
        description="Where old events are sealed: the whole path of a directory that all processes share, or `s3://…`, `gs://…`, `az://…` with the credentials in the environment. Without it, or with `none`, they stay in MongoDB until they are no longer kept. `dev` has a directory of its own.",
    )
    hot_events: int = Field(
        1_000_000, ge=1, description="Events beyond the newest this many are archived, as soon as they fill a segment."
    )
    hot_age: float = Field(604800.0, ge=0, description="And so are those that are older than this, in seconds.")
    segment_events: int = Field(50_000, ge=1, description="An archived segment is closed when it has this many events.")
    segment_bytes: int = Field(
        32 * MIB,
        ge=64 * KIB,
        le=1024 * MIB,
        description="And when it has this many bytes, before compression; one transaction may exceed both.",
    )
    segment_block_bytes: int = Field(
        256 * KIB,
        ge=KIB,
        description="What is read of a segment at once, before compression; one event may exceed it.",
    )
    segment_cache_bytes: int = Field(
        64 * MIB, ge=0, description="Parts of segments kept in each process's memory for the next reader, in bytes."
    )
    retention_age: float = Field(
        2592000.0, ge=0, description="Events are kept for this long, in seconds; 0 keeps them for ever."
    )
    retention_events: int = Field(0, ge=0, description="Most events that are kept; 0 sets no bound.")
    retention_bytes: int = Field(
        0, ge=0, description="Most bytes that archived events take, compressed; 0 sets no bound."
    )
    squash_age: float = Field(
        7776000.0,
        ge=0,
        description="For this long after its events are gone, a client may still be brought up to date by the documents that were touched, in seconds; 0 is for ever.",
    )

    # Logging
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level of a log line.")

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
            raise ValueError("a directory is given by its whole path, /…: processes start in different ones")
        return url

    @property
    def log_db(self) -> str:
        """The name of the event log's database."""
        return self.log_database or f"{self.database}_eventsync"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Options, then environment, then file."""
        file = config_file(cls.config_files)
        if file is None and cls.finds_dev and not {**init_settings(), **env_settings()}.get("mongodb_uri"):
            file = running_dev.only_configuration(_CONFIG)
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, file)) if file else sources


class DevSettings(Settings):
    """The settings of `eventsync dev`, never from the file that another `dev`, or a killed one, has left."""

    config_files: ClassVar[tuple[Path, ...]] = (Path("eventsync.toml"),)


class CommandSettings(Settings):
    """The settings of a command. Not those of `serve` and `worker`, which never join a `dev` that runs somewhere."""

    finds_dev = True


def config_file(candidates: Iterable[Path]) -> Path | None:
    """The configuration file in force, or None."""
    if named := os.environ.get(_CONFIG):
        if not Path(named).is_file():
            raise ConfigurationError(f"{_CONFIG} names {named}, which is not a file")
        return Path(named)
    return next((path for path in candidates if path.is_file()), None)


def load_settings(kind: type[Settings] = CommandSettings, /, **options: Any) -> Settings:
    """Read the settings once; an option that is None was not given. Raises `ConfigurationError`."""
    check_environment(PREFIX, (*Settings.model_fields, _CONFIG.removeprefix(PREFIX)))
    try:
        settings = kind(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        lines = "; ".join(_fault(item) for item in error.errors(include_url=False, include_input=False))
        raise ConfigurationError(f"the settings are not valid: {lines}") from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"the configuration file can't be read: {error}") from error
    _check(settings)
    return settings


_ORDERED: Final = (
    ("pin_ttl", "send_timeout", "a client that is slow would lose its pin"),
    ("request_timeout", "write_deadline", "a write would be answered before it is known whether anything was written"),
    ("stale_after", "checkpoint_interval", "an idle worker would pass for a stale one"),
)


def _check(settings: Settings) -> None:
    """Raise `ConfigurationError` for settings that don't go together."""
    if settings.log_db == settings.database:
        raise ConfigurationError("log_database must not be the database with the tracked collections")
    if settings.log_db.casefold() == settings.database.casefold():
        raise ConfigurationError("log_database and database differ in case only, which MongoDB refuses")
    if len(settings.log_db.encode()) > MAX_DATABASE_BYTES:
        raise ConfigurationError(f"{settings.log_db!r} is too long for a database: give a shorter log_database")
    for longer, shorter, why in _ORDERED:
        if getattr(settings, longer) <= getattr(settings, shorter):
            raise ConfigurationError(f"{longer} must be longer than {shorter}: {why}")


def _fault(item: Mapping[str, Any]) -> str:
    name = ".".join(map(str, item["loc"])) or "settings"
    if item["type"] == "extra_forbidden":
        return f"{name}: no such setting{suggestion(name, Settings.model_fields)}"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}"
