"""`POST /v1/collections/{collection}/documents:batch`: many independent writes, an answer for each.

A JSON body has the operations of a transaction, and is turned into lines first. The answers are streamed in order.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from eventsync.api import conditions
from eventsync.api.bodies import read_bytes
from eventsync.api.documents import written_item
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import segment
from eventsync.api.permissions import Permissions
from eventsync.api.responses import JSON, NDJSON
from eventsync.api.state import Services, services_of
from eventsync.api.write_operations import keep_contents, operation_of
from eventsync.concurrency.slices import turn
from eventsync.domain.values.extended_json import parse_json, to_json
from eventsync.errors import EventsyncError, Malformed, NotAttempted, TooLarge
from eventsync.nodestorage import TEXT_WEIGHT, BulkWrite, WriteResult
from eventsync.server.deadline import deadline_of
from eventsync.server.problems import problem_of_error, retry_after
from eventsync.server.response_stream import ResponseStream

_PATH: Final = "/v1/collections/{collection}/documents:batch"
_NAME: Final = f"POST {_PATH}"
_KEY: Final = "idempotency_key"

_LINE_WEIGHT: Final = 3
"""Parsing a byte of a line costs as much as reading this many bytes of a document. (`TEXT_WEIGHT` is of whole bodies.)

A group of writes takes what was parsed in one turn of the event loop: with a larger weight, groups are small.
"""


class BatchEndpoint:
    """The endpoint. Each operation has its own status; that of the answer is 200 once the batch has begun."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        services = services_of(request)
        collection = segment(request, "collection")
        permissions = Permissions(request)
        permissions.require(collection)
        if "idempotency-key" in request.headers:
            raise Malformed(f"Idempotency-Key is for one write; an operation of a batch has its own {_KEY}")
        media_type, raw = await read_bytes(request, JSON, NDJSON)
        is_json = media_type == JSON
        if is_json:
            raw = await services.offload.call(TEXT_WEIGHT * len(raw), lines_of, raw)
        items = Items(collection, raw, "operation" if is_json else "line", first=0 if is_json else 1)
        items.check(services.settings.batch_operations)
        deadline_of(request).lift()  # `bulk` keeps the same deadline for each operation
        minimal = not conditions.wants_representation(request)
        weight = min(len(items), services.settings.batch_concurrency)
        async with permissions.requests(weight):
            with ExitStack() as admitted:
                admitted.enter_context(services.writes.admitted())
                async with aclosing(
                    _pieces(services, items, permissions, admitted, minimal=minimal, is_json=is_json)
                ) as pieces:
                    stream = ResponseStream(scope, receive, send, timeout=services.settings.send_timeout)
                    headers = [(b"content-type", media_type.encode()), (b"cache-control", b"no-store")]
                    await stream.send_all(headers, pieces, what="the answer to a batch")


@dataclass(frozen=True, slots=True)
class Items:
    """The operations of a batch on `collection`, one in each line of `raw`.

    `kind` and `first` are for the messages: the word for an item, and the number of the first one.
    """

    collection: str
    raw: bytes
    kind: str
    first: int

    def check(self, max_operations: int) -> None:
        """Raise `Malformed` without operations, and `TooLarge` with too many."""
        if not self.raw.strip():
            raise Malformed("a batch has at least one operation")
        if len(self) > max_operations:
            raise TooLarge(f"a batch has at most {max_operations} operations, not {len(self)}")

    def __len__(self) -> int:
        # The last line may do without a line end.
        return self.raw.count(b"\n") + (not self.raw.endswith(b"\n"))

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        while start < len(self.raw):
            end = self.raw.find(b"\n", start)
            end = len(self.raw) if end < 0 else end
            yield self.raw[start:end]
            start = end + 1

    async def writes(self, services: Services, permissions: Permissions) -> AsyncGenerator[BulkWrite | EventsyncError]:
        """Yield the write that each item describes, or the error of one that describes none."""
        for number, line in enumerate(self, self.first):
            try:
                yield await self._write(line, services, permissions)
            except EventsyncError as error:
                error.args = (f"{self.kind} {number}: {error.message}", *error.args[1:])
                yield error

    async def _write(self, line: bytes, services: Services, permissions: Permissions) -> BulkWrite:
        size = TEXT_WEIGHT * len(line)
        if size > services.offload.above:
            item = await services.offload.run(parse_item, line, size=size)
        else:
            await turn(_LINE_WEIGHT * len(line))
            item = parse_json(line)
        author, idempotency = permissions.author([self.collection]), None
        if isinstance(item, dict):
            if item.setdefault("collection", self.collection) != self.collection:
                raise Malformed(f"this is a batch of {self.collection}; collection may be left out")
            if _KEY in item:
                idempotency = conditions.keyed(_KEY, item.pop(_KEY), permissions, self.collection.encode(), line)
                author = replace(author, op_id=idempotency.key)
        return BulkWrite(operation_of(item, permissions), author, idempotency)


def lines_of(raw: bytes) -> bytes:
    """Return the operations of a JSON body as lines. Raises `Malformed`."""
    tree = parse_json(raw)
    listed = tree.get("operations") if isinstance(tree, dict) else None
    if not isinstance(listed, list) or not listed:
        raise Malformed("operations is a list of at least one")
    return b"\n".join(map(orjson.dumps, listed))


def parse_item(line: bytes) -> Any:
    """Parse a long line, but keep its document or patch as `JsonText`, which nodestorage parses later."""
    item = parse_json(line)
    keep_contents(item)
    return item


async def _pieces(
    services: Services, items: Items, permissions: Permissions, admitted: ExitStack, *, minimal: bool, is_json: bool
) -> AsyncGenerator[bytes]:
    """Yield the body of the answer."""
    separator = b'{"results":[' if is_json else b""
    between, end = (b",", b"]}") if is_json else (b"\n", b"\n")
    async with aclosing(_rows(services, items, permissions, admitted, minimal=minimal)) as rows:
        async for some in rows:
            yield separator + between.join(some)
            separator = between
    yield end


async def _rows(
    services: Services, items: Items, permissions: Permissions, admitted: ExitStack, *, minimal: bool
) -> AsyncGenerator[list[bytes]]:
    """Yield the JSON of all results, some at a time. `admitted` is closed as soon as there are some.

    Until then the batch has waited as a single write does. How long the rest takes depends on its size.
    """
    left = len(items)
    within = services.settings.request_timeout
    async with (
        aclosing(items.writes(services, permissions)) as writes,
        aclosing(services.storage.bulk(writes, within=within)) as outcomes,
    ):
        async for some in outcomes:
            admitted.close()
            rows = []
            for outcome in some:
                if isinstance(outcome, EventsyncError):
                    permissions.record(outcome, _NAME)
                rows.append(row := to_json(_item(outcome, minimal=minimal), plain=minimal))
                if not minimal:
                    await turn(len(row))
            left -= len(rows)
            yield rows
    if left:
        yield [to_json(_item(NotAttempted(), minimal=minimal))] * left


def _item(outcome: WriteResult | EventsyncError, *, minimal: bool) -> dict[str, Any]:
    """Return what a single write would be answered, with the status and the headers among the members."""
    if isinstance(outcome, WriteResult):
        return {"status": 201 if outcome.created else 200, **written_item(outcome, minimal=minimal)}
    item = problem_of_error(outcome)
    if (etag := getattr(outcome, "etag", None)) is not None:
        item["etag"] = etag
    if (seconds := retry_after(outcome)) is not None:
        item["retry_after"] = seconds
    return item


routes = [
    Endpoint(
        _PATH,
        BatchEndpoint(),
        methods=["POST"],
        access=AccessLevel.PRINCIPAL,
        name="batch",
        is_long=True,
        writes=True,
    )
]
