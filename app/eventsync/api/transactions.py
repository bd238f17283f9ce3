"""`POST /v1/transactions`: several writes, all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from eventsync.api import conditions
from eventsync.api.bodies import read_json
from eventsync.api.documents import written
from eventsync.api.endpoint import Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import services_of
from eventsync.concurrency.slices import turn
from eventsync.domain.condition import Condition, Tags
from eventsync.domain.ids import parse_id
from eventsync.domain.values.extended_json import JsonText, parse_json, to_json
from eventsync.domain.values.json_document import ABSENT
from eventsync.errors import Malformed, NotTracked, TooLarge
from eventsync.nodestorage import (
    TEXT_WEIGHT,
    Create,
    Delete,
    JsonDocument,
    JsonPatch,
    MergePatch,
    Replace,
    Update,
    WriteOperation,
    WriteResult,
)
from eventsync.server.sized_response import Parts
from eventsync.stores.log.tracking import Tracking


async def transaction(request: Request) -> Response:
    services = services_of(request)
    body = await read_json(request, JSON)
    author, idempotency = conditions.authorship(request, body.raw)
    tree = body.content
    if isinstance(tree, JsonText):
        tree = await services.offload.run(parse_outline, tree.text, size=TEXT_WEIGHT * len(tree))
    operations = _operations(tree, services.settings.transaction_operations, services.sync.tracking)
    results = await services.storage.transact(operations, author=author, idempotency=idempotency)
    minimal = conditions.wants_minimal(request)
    parts: list[bytes] = []
    for result in results:
        parts += [b"," if parts else b'{"results":[', to_json(_written(result, minimal=minimal))]
        await turn(len(parts[-1]))
    return Parts([*parts, b"]}"], NO_STORE, JSON)


def _written(result: WriteResult, *, minimal: bool) -> dict[str, Any]:
    """Return the JSON of a result. It includes the entity tag, because the response has only one `ETag` header."""
    body = written(result, minimal=minimal)
    return body if result.etag is None else body | {"etag": result.etag}


def _operations(tree: Any, max_operations: int, tracking: Tracking) -> list[WriteOperation]:
    listed = tree.get("operations") if isinstance(tree, dict) else None
    if not isinstance(listed, list) or not listed:
        raise Malformed("operations is a list of at least one")
    if len(listed) > max_operations:
        raise TooLarge(f"a transaction has at most {max_operations} operations")
    return [_operation(item, index, tracking) for index, item in enumerate(listed)]


def _operation(item: Any, index: int, tracking: Tracking) -> WriteOperation:
    try:
        return _made(item, tracking)
    except (Malformed, NotTracked) as error:
        raise type(error)(f"operation {index}: {error.message}") from error


def _made(item: Any, tracking: Tracking) -> WriteOperation:
    method = str(item.get("method")).upper() if isinstance(item, dict) else ""
    if (make := _METHODS.get(method)) is None:
        raise Malformed(f"an operation is an object whose method is one of {', '.join(_METHODS)}")
    # Ignoring a misspelt condition would lose an update.
    if unknown := item.keys() - _MEMBERS[method]:
        raise Malformed(f"{method} takes no member {min(unknown)[:64]!r}")
    tracking.require(item.get("collection", ""))
    return make(item)


def _create(item: dict[str, Any]) -> WriteOperation:
    given = parse_id(_text(item, "id")) if "id" in item else ABSENT
    return Create(item["collection"], JsonDocument(item.get("doc")), given)


def _replace(item: dict[str, Any]) -> WriteOperation:
    document, condition = JsonDocument(item.get("doc")), _condition(item)
    return Replace(item["collection"], parse_id(_text(item, "id")), document, upsert=True, condition=condition)


def _update(item: dict[str, Any]) -> WriteOperation:
    patch = item.get("patch")
    is_list = isinstance(patch, list) or (isinstance(patch, JsonText) and patch.text.startswith(b"["))
    edit = JsonPatch(patch) if is_list else MergePatch(patch)
    return Update(item["collection"], parse_id(_text(item, "id")), edit, condition=_condition(item))


def _delete(item: dict[str, Any]) -> WriteOperation:
    return Delete(item["collection"], parse_id(_text(item, "id")), condition=_condition(item))


_METHODS: dict[str, Callable[[dict[str, Any]], WriteOperation]] = {
    "POST": _create,
    "PUT": _replace,
    "PATCH": _update,
    "DELETE": _delete,
}
_ALL = frozenset({"method", "collection", "id"})
_CONDITIONAL = _ALL | {"if_match", "if_none_match"}
_MEMBERS: dict[str, frozenset[str]] = {
    "POST": _ALL | {"doc"},
    "PUT": _CONDITIONAL | {"doc"},
    "PATCH": _CONDITIONAL | {"patch"},
    "DELETE": _CONDITIONAL,
}


def parse_outline(raw: bytes) -> Any:
    """Parse a transaction, but keep its documents and patches as `JsonText`, which nodestorage parses later."""
    tree = parse_json(raw)
    operations = tree.get("operations") if isinstance(tree, dict) else None
    for item in operations if isinstance(operations, list) else ():
        for name in ("doc", "patch"):
            if isinstance(item, dict) and name in item:
                item[name] = JsonText(orjson.dumps(item[name]))
    # Members without a meaning are not sent back to the server's process.
    return {"operations": operations}


def _text(item: dict[str, Any], name: str) -> str:
    if not isinstance(value := item.get(name), str):
        raise Malformed(f"{name} is a string")
    return value


def _condition(item: dict[str, Any]) -> Condition | None:
    """Return the condition of an operation, with the syntax of the headers. Raises `Malformed`."""
    match, none_match = _tags(item, "if_match"), _tags(item, "if_none_match")
    return None if match is None and none_match is None else Condition(match, none_match)


def _tags(item: dict[str, Any], name: str) -> Tags | None:
    if name not in item:
        return None
    value = item[name]
    if isinstance(value, str):
        return Tags.parse([value], name)
    if name == "if_match" and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Tags.of_version(value)
    # Null is refused as well: a client that lacks the tag it meant to send would lose an update.
    raise Malformed(f"{name} takes what the header of this name takes; without a condition it is left out")


routes = [Endpoint("/v1/transactions", transaction, methods=["POST"])]
