"""`POST /v1/transactions`: several writes, all or nothing."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from eventsync.api import conditions
from eventsync.api.bodies import read_json
from eventsync.api.documents import written_item
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.permissions import Permissions
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import services_of
from eventsync.api.write_operations import keep_contents, operation_of
from eventsync.concurrency.slices import turn
from eventsync.domain.values.extended_json import JsonText, parse_json, to_json
from eventsync.errors import Malformed, NotTracked, TooLarge
from eventsync.nodestorage import (
    TEXT_WEIGHT,
    WriteOperation,
)
from eventsync.server.sized_response import Parts


async def transaction(request: Request) -> Response:
    services = services_of(request)
    body = await read_json(request, JSON)
    permissions = Permissions(request)
    tree = body.content
    if isinstance(tree, JsonText):
        tree = await services.offload.run(parse_outline, tree.text, size=TEXT_WEIGHT * len(tree))
    operations = _operations(tree, services.settings.transaction_operations, permissions)
    collections = {operation.collection for operation in operations}
    author, idempotency = conditions.authorship(request, permissions, body.raw, *collections)
    with services.writes.admitted():
        results = await services.storage.transact(operations, author=author, idempotency=idempotency)
    minimal = conditions.wants_minimal(request)
    parts: list[bytes] = []
    for result in results:
        parts += [b"," if parts else b'{"results":[', to_json(written_item(result, minimal=minimal))]
        await turn(len(parts[-1]))
    return Parts([*parts, b"]}"], NO_STORE, JSON)


def _operations(tree: Any, max_operations: int, permissions: Permissions) -> list[WriteOperation]:
    listed = tree.get("operations") if isinstance(tree, dict) else None
    if not isinstance(listed, list) or not listed:
        raise Malformed("operations is a list of at least one")
    if len(listed) > max_operations:
        raise TooLarge(f"a transaction has at most {max_operations} operations")
    return [_operation(item, index, permissions) for index, item in enumerate(listed)]


def _operation(item: Any, index: int, permissions: Permissions) -> WriteOperation:
    try:
        return operation_of(item, permissions)
    except (Malformed, NotTracked) as error:
        raise type(error)(f"operation {index}: {error.message}") from error


def parse_outline(raw: bytes) -> Any:
    """Parse a transaction, but keep its documents and patches as `JsonText`, which nodestorage parses later."""
    tree = parse_json(raw)
    operations = tree.get("operations") if isinstance(tree, dict) else None
    for item in operations if isinstance(operations, list) else ():
        keep_contents(item)
    # Members without a meaning are not sent back to the server's process.
    return {"operations": operations}


routes = [Endpoint("/v1/transactions", transaction, methods=["POST"], access=AccessLevel.PRINCIPAL, writes=True)]
