"""Write operations as JSON: the items of a transaction and of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from eventsync.api.permissions import Permissions
from eventsync.domain.condition import Condition, Tags
from eventsync.domain.ids import parse_id
from eventsync.domain.values.extended_json import JsonText
from eventsync.domain.values.json_document import ABSENT
from eventsync.errors import Malformed
from eventsync.nodestorage import (
    Create,
    Delete,
    JsonDocument,
    JsonPatch,
    MergePatch,
    Replace,
    Update,
    WriteOperation,
)


def operation_of(item: Any, permissions: Permissions) -> WriteOperation:
    """Return the operation that an item describes. Raises `Malformed` and `NotTracked`."""
    method = item.get("method") if isinstance(item, dict) else None
    method = method.upper() if isinstance(method, str) else ""
    if (make := _METHODS.get(method)) is None:
        raise Malformed(f"an operation is an object whose method is one of {', '.join(_METHODS)}")
    # Ignoring a misspelt condition would lose an update.
    if unknown := item.keys() - _MEMBERS[method]:
        raise Malformed(f"{method} takes no member {min(unknown)[:64]!r}")
    permissions.require(_text(item, "collection"))
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


def keep_contents(item: Any) -> None:
    """Replace the document or the patch of an item by its text, which nodestorage parses later."""
    for name in ("doc", "patch"):
        if isinstance(item, dict) and name in item:
            item[name] = JsonText(orjson.dumps(item[name]))


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
