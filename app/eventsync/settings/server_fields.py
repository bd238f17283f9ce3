"""Settings of MongoDB and of servers. Sizes are in bytes and times in seconds unless the name says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX: Final = "EVENTSYNC_"
"""The beginning of the name of a setting's environment variable."""

KIB, MIB = 1024, 1024 * 1024

Names = Annotated[tuple[str, ...], NoDecode]
"""A list, written as `a,b` in the environment."""

Seconds = Annotated[float, Field(le=10**9)]
"""A time. A much longer one, such as for an age without an end, leads beyond the calendar."""

_DAY: Final = 86400
"""Maximum of the times that MongoDB or the system takes as milliseconds of 32 bits."""


class ServerFields(BaseSettings):
    """The settings of MongoDB, which every process needs, and of servers."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", allow_inf_nan=False)

    # MongoDB
    mongodb_uri: str | None = Field(
        None,
        description="MongoDB connection string of a replica set, 6.0 or newer. Required by every process except `dev`.",
    )
    database: str = Field(
        "app",
        min_length=1,
        max_length=38,
        description="Database with the tracked collections.",
    )
    log_database: str = Field(
        "", description="Database of the event log; must differ from `database`. Default: `<database>_eventsync`."
    )
    collections: Names = Field(
        (),
        description="Collections to track when a worker starts, comma separated. `eventsync track` adds more at run time.",
    )
    rules_file: Path | None = Field(
        None,
        description="TOML file that declares shapes. `eventsync rules` reads it, and `dev` applies it at its start and when it changes. Default: `rules.toml` in the current directory.",
    )
    mongodb_timeout: float = Field(
        10.0,
        ge=0.1,
        le=_DAY,
        description="Maximum wait for MongoDB in one operation: server selection, connect and socket, in seconds.",
    )
    mongodb_pool_size: int = Field(
        50, ge=5, description="Maximum number of connections to MongoDB for the writes and reads of one process."
    )

    # HTTP
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; `0.0.0.0` is all of IPv4, `::` all of IPv6 and IPv4. A server on any address but loopback needs `[auth]` in its rules, or `allow_unauthenticated`.",
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")
    reuse_port: bool = Field(
        False,
        description="Allow other servers with this setting to listen on the same port. The system divides new connections among them (SO_REUSEPORT).",
    )
    allowed_origins: Names = Field(
        (),
        description="Origins (`https://app.example`) that browsers may connect from besides the server's own; `*` allows all.",
    )
    allowed_hosts: Names = Field(
        (),
        description="Names that a request's `Host` may have; `*` allows all. `localhost` and IP addresses are always allowed, because DNS rebinding needs a name. `/healthz`, `/readyz` and `/metrics` answer under any name.",
    )
    trusted_proxies: Names = Field(
        ("127.0.0.1", "::1"),
        description="Addresses or networks of proxies whose `X-Forwarded-Proto` is trusted; `*` trusts all. It gives the scheme that an `Origin` is compared with.",
    )
    body_bytes: int = Field(
        MIB,
        ge=KIB,
        le=16 * MIB,
        description="Maximum size of a request body, in bytes. A chunked body may take twice as many on the wire, including chunk sizes, extensions and trailers.",
    )
    head_bytes: int = Field(
        64 * KIB, ge=KIB, description="Maximum size of a request's head (request line and headers), in bytes."
    )
    head_fields: int = Field(128, ge=16, description="Maximum number of header fields of a request.")
    head_timeout: Seconds = Field(
        10.0,
        gt=0,
        description="Maximum time for a request's head to arrive, and for a connection's first request to begin, in seconds.",
    )
    keep_alive: Seconds = Field(
        75.0,
        gt=0,
        description="Time that an HTTP connection stays open between requests, in seconds. Make it longer than that of a proxy in front.",
    )
    max_sockets: int = Field(
        12_000,
        ge=1,
        description="Maximum number of TCP connections of one server process, of any kind. Further ones are answered when to retry (event streams and WebSockets by a message, others by 503) and closed.",
    )
    max_sockets_per_address: int = Field(
        0,
        ge=0,
        description="Maximum number of TCP connections from one address; 0: no limit. All clients of a proxy have its address.",
    )
    body_timeout: Seconds = Field(30.0, gt=0, description="Maximum time for a request body to arrive, in seconds.")
    request_timeout: Seconds = Field(
        12.0,
        gt=0,
        description="Maximum time from the last byte of a request to the first byte of its response, in seconds, without the `wait` of a poll; after it the response is 503. Longer than `write_deadline`, after which it is known whether anything was written.",
    )
    barrier_timeout: Seconds = Field(
        5.0,
        gt=0,
        description="Maximum time that a barrier waits for the worker, in seconds; after it the response is 503. An idle worker takes up to twice `checkpoint_interval`. Longer than that interval, and shorter than `request_timeout`.",
    )
    patch_operations: int = Field(1000, ge=1, description="Maximum number of operations in one JSON Patch.")
    patch_steps: int = Field(
        10_000_000,
        ge=1000,
        description="Maximum work of one JSON Patch, in values that it visits or copies; more is refused as `too_complex`.",
    )
    offload_above: int = Field(
        64 * KIB,
        ge=0,
        description="Work on more bytes of documents and request bodies than this is done by a helper process, so that it delays no other client. Each byte of a body counts as eight.",
    )
    offload_processes: int = Field(
        2,
        ge=1,
        le=64,
        description="Maximum number of helper processes of each server process and worker. They are started when needed. A server process has one more for the large events of its window, so that requests delay none.",
    )
    offload_waiting_bytes: int = Field(
        128 * MIB,
        ge=MIB,
        description="Maximum number of bytes of documents and bodies that helper processes work on or that wait for them; further requests are answered 503. A single request may exceed it.",
    )
    offload_timeout: Seconds = Field(
        20.0,
        gt=0,
        description="Maximum time that a helper process works on one request, in seconds; then the request is refused as `too_complex`. Work of a worker may take ten times as long: then it is tried again, and after three timeouts in a row its collection is not followed for a minute.",
    )
    document_bytes: int = Field(
        15 * MIB,
        ge=KIB,
        le=16 * MIB - 16 * KIB,
        description="Maximum size of a document that a write produces, in bytes of BSON.",
    )
    transaction_bytes: int = Field(
        64 * MIB,
        ge=1,
        description="Maximum number of bytes of the documents in one transaction, counted once for each operation; more is answered 413. MongoDB's cache holds them until the transaction ends.",
    )
    transaction_operations: int = Field(
        100, ge=1, le=1000, description="Maximum number of operations in one `POST /v1/transactions`."
    )
    batch_operations: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Maximum number of operations in one `POST …/documents:batch`. Its body has at most `body_bytes`.",
    )
    batch_concurrency: int = Field(
        32,
        ge=1,
        le=10_000,
        description="Maximum number of operations of one batch that are carried out at the same time; further ones wait. Those of one document are carried out one after another.",
    )
    page_documents: int = Field(
        1000, ge=1, description="Maximum number of documents or events in one page of a listing."
    )
    page_bytes: int = Field(
        4 * MIB,
        ge=KIB,
        le=256 * MIB,
        description="Number of bytes that closes a page of a listing; its last document, event or client may exceed it.",
    )
    query_timeout: float = Field(
        2.0,
        gt=0,
        le=_DAY,
        description="Maximum time that MongoDB works on one page of a listing, in seconds; after it the response is 422 with `filter`, `sort` or `shape`, otherwise 503. Shorter than `request_timeout`.",
    )
    held_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        description="Maximum number of bytes that the requests of one server process hold together (bodies, documents that were read, responses that are not sent yet), beyond 64 KiB each; further requests are answered 503.",
    )
    principal_requests: int = Field(
        64,
        ge=0,
        description="Maximum number of requests of one principal that one server process carries out at the same time; 0: no limit. Further ones wait their turn, and delay no other principal. A batch counts as `batch_concurrency` requests. Applies with `[auth]`, like all of `principal_…`.",
    )
    principal_waiting: int = Field(
        1000,
        ge=0,
        description="Maximum number of requests of one principal that wait for `principal_requests`; further ones are answered 429.",
    )
    principal_connections: int = Field(
        1000,
        ge=0,
        description="Maximum number of WebSockets, event streams, polls, snapshots, batches and segments of one principal under way in one server process; 0: no limit. Further ones are answered 429.",
    )
    principal_held_bytes: int = Field(
        128 * MIB,
        ge=0,
        description="Maximum number of bytes that the requests of one principal hold together, as a part of `held_bytes`, beyond 64 KiB each; 0: no limit. Further requests are answered 429.",
    )
    principal_clients: int = Field(
        10_000,
        ge=0,
        description="Maximum number of clients of one principal with a stored state vector; 0: no limit. Beyond it as for `max_clients`. Each process counts every 5 s.",
    )
    principal: str = Field(
        "anonymous",
        max_length=256,
        description="Author of writes through this API, recorded as `by`, until there is authentication.",
    )

    # Identity
    allow_unauthenticated: bool = Field(
        False,
        description="Serve everybody everything also beyond loopback, while no `[auth]` has been applied. Without it, a server that listens on another address than loopback does not start, and answers 503 if `[auth]` is taken away.",
    )
    token_lifetime: Seconds = Field(
        2592000.0,
        gt=0,
        description="Maximum time from a token's `iat` to its `exp`, in seconds; a longer one is refused, because it would outlive its revocation. The same for all servers and for `eventsync revoke`.",
    )
    token_cache_bytes: int = Field(
        8 * MIB,
        ge=0,
        description="Size of each server's cache of verified tokens, in bytes.",
    )
    wrong_signatures: float = Field(
        100.0,
        ge=0,
        description="Maximum number of tokens with a wrong signature a second that each server verifies for one address, averaged over 10 s; then it answers further new tokens from there 429, and those that it knows as before. 0: no limit. All clients of a proxy have its address, unless it is one of `trusted_proxies` and sends `X-Forwarded-For`.",
    )
    auth_grace: Seconds = Field(
        30.0,
        ge=0,
        description="Time that a WebSocket whose token has expired stays open, in seconds. It is sent no data until it has sent another token.",
    )
    service_keys: int = Field(
        1000, ge=1, le=100_000, description="Maximum number of service keys. Each server holds all of them in memory."
    )
    ticket_ttl: Seconds = Field(
        86400.0,
        gt=0,
        description="Maximum time that a ticket is valid, in seconds. It ends with its token, if that is earlier.",
    )
    max_tickets: int = Field(
        1_000_000,
        ge=1,
        description="Maximum number of stored tickets; beyond it a request for one is answered 429. Each process counts every 5 s, and may exceed the limit in between.",
    )
    principal_tickets: int = Field(100, ge=1, description="Maximum number of valid tickets of one principal.")
    max_revocations: int = Field(
        100_000,
        ge=1,
        description="Maximum number of stored revocations. Each server holds all of them in memory.",
    )

    # Writing
    write_attempts: int = Field(
        100,
        ge=1,
        description="Maximum number of attempts of one write against concurrent writers; then it is answered 409.",
    )
    write_deadline: Seconds = Field(10.0, gt=0, description="Maximum time that one write is retried, in seconds.")
    write_queue_delay: Seconds = Field(
        1.0,
        gt=0,
        description="Maximum expected delay of a write in one server process, in seconds: writes in progress by the rate at which they are done. While it is longer, new writes are answered 503 `overloaded` at once, with `Retry-After`.",
    )
    write_groups: int = Field(
        2,
        ge=1,
        description="Maximum number of groups of writes of one collection under way at a time. A write that arrives meanwhile goes with the next group. With MongoDB 20 ms away and 128 writers, 2 take 1.5 times the writes of 1, and 4 hardly more than 2. A group that takes longer than 0.25 s, as behind a document that an open transaction holds, is not counted.",
    )
    write_group_operations: int = Field(
        64, ge=1, le=1000, description="Maximum number of writes in one group. With 1, each goes alone."
    )
    write_group_bytes: int = Field(
        MIB,
        ge=KIB,
        le=16 * MIB,
        description="Maximum number of bytes of the documents in one group, before and after the writes. A document of over 16 KiB is not in any group.",
    )
    write_cache_bytes: int = Field(
        32 * MIB,
        ge=0,
        description="Maximum number of bytes of documents that a process has read or written last and keeps for its next write of them, which then needs no read: the write itself compares the stored document. 0 switches it off.",
    )
    operation_ttl: Seconds = Field(
        86400.0,
        gt=0,
        description="Time that an idempotency key is remembered, in seconds. Longer than `request_timeout`.",
    )
    operation_keys: int = Field(
        10_000_000,
        ge=1,
        description="Maximum number of remembered idempotency keys; beyond it a write with a new key is answered 429. Each process counts every 5 s, and may exceed the limit in between.",
    )
    operation_bytes: int = Field(
        4096 * MIB,
        ge=MIB,
        description="Maximum number of bytes of the records of idempotency keys; beyond it as for `operation_keys`.",
    )

    # Syncing
    heartbeat: Seconds = Field(
        25.0,
        gt=0,
        description="Interval of `progress` messages on a connection without events, and of pings of WebSockets, in seconds.",
    )
    pong_timeout: Seconds = Field(
        25.0,
        gt=0,
        description="Maximum time for a WebSocket's client to answer a ping, in seconds; then its connection is closed, and it can resume.",
    )
    hello_timeout: Seconds = Field(10.0, gt=0, description="Maximum time until a WebSocket's `hello`, in seconds.")
    send_timeout: float = Field(
        30.0,
        gt=0,
        le=_DAY,
        description="Maximum time for a client to take a frame, in seconds; then its connection is closed, and it can resume.",
    )
    message_bytes: int = Field(64 * KIB, ge=KIB, description="Maximum size of a message from a client, in bytes.")
    message_rate: float = Field(
        100.0,
        gt=0,
        description="Maximum number of messages a second from a WebSocket client, on average over ten seconds. A client that sends more is closed.",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        description="Maximum number of open WebSocket and SSE connections of one server process, with the polls that wait. Further ones are answered when to retry.",
    )
    max_shapes: int = Field(
        100, ge=1, description="Maximum number of shapes of one connection, and of entries in an acknowledged vector."
    )
    max_bootstraps: int = Field(
        200,
        ge=1,
        description="Maximum number of clients of one server process that take a snapshot or a squashed answer at the same time, each at its own pace; further ones wait.",
    )
    max_reads: int = Field(
        16,
        ge=1,
        description="Maximum number of frames for clients behind the window, and of chunks of stored snapshots, that one server process reads at the same time; further reads wait.",
    )
    max_waiting: int = Field(
        5000,
        ge=0,
        description="Maximum number of clients that wait to begin, and of those that wait to catch up; further ones are answered when to retry.",
    )
    frame_cache_bytes: int = Field(
        32 * MIB,
        ge=0,
        description="Size of each server's cache of frames for clients behind the window, in bytes.",
    )
    past_cache_bytes: int = Field(
        16 * MIB,
        ge=0,
        description="Size of each server's cache of past states of documents, and of its cache of pages of their histories, in bytes.",
    )
    snapshot_cache_bytes: int = Field(
        64 * MIB,
        ge=0,
        description="Size of each server's cache of decompressed chunks of stored snapshots, in bytes.",
    )
    stale_after: Seconds = Field(
        10.0,
        gt=0,
        description="Clients, `/readyz` and `/metrics` report the worker as stale when it has made no progress for this long, in seconds.",
    )
    poll_wait: Seconds = Field(60.0, ge=0, description="Maximum `wait` of an HTTP long poll, in seconds.")
    window_bytes: int = Field(
        64 * MIB,
        ge=64 * KIB,
        description="Size of the newest events that each server keeps encoded in memory, in bytes.",
    )
    frame_bytes: int = Field(
        256 * KIB,
        ge=KIB,
        description="Number of bytes that closes a frame; a single event or transaction may exceed it.",
    )
    frame_events: int = Field(
        1000, ge=1, description="Maximum number of events in one frame or log page; a single transaction may exceed it."
    )
    report_interval: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Interval at which each server and worker records what it does, for the dashboard and `status --url`, in seconds. One that is not heard for four times as long counts as ended.",
    )
    ack_interval: Seconds = Field(
        1.0,
        gt=0,
        description="Maximum delay until the acknowledgements of clients are stored, many together, in seconds.",
    )
    client_shapes: int = Field(
        1000,
        ge=1,
        description="Maximum number of stored positions of one client, which have at most 1 MiB; the furthest ones are kept.",
    )
    max_clients: int = Field(
        1_000_000,
        ge=1,
        description="Maximum number of clients with a stored state vector. Nothing is stored for further ones: `welcome` has `remembered: false`, `PUT` is answered 429. Each process counts every 5 s, and may exceed the limit in between.",
    )
    client_bytes: int = Field(
        4096 * MIB,
        ge=MIB,
        description="Maximum number of bytes of stored state vectors; beyond it as for `max_clients`.",
    )
    client_ttl: Seconds = Field(
        2592000.0,
        gt=0,
        description="Time without a connection after which a client is forgotten with its stored state vector, in seconds.",
    )
    drain_timeout: Seconds = Field(
        10.0, gt=0, description="At shutdown, maximum time for clients to take their `goodbye`, in seconds."
    )
    ready_timeout: Seconds = Field(
        30.0,
        gt=0,
        description="With several server processes, maximum time until a new one serves clients, in seconds; then the restart is given up and the old process stays.",
    )
