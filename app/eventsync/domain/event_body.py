"""The encoded body of an event: where its members stand, and what the small ones say, without parsing the large one.

`domain.events` writes them in this order: `seq`, `collection`, `id`, `op`, `base`, `version`, then the document or the
patch, then `at` and who made the change. No search finds text inside of a string, where a quote has a backslash before
it: the first hit of a member before the content is at the top level, and so is the last hit of one behind it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import orjson

OP: Final = b',"op":"'
AT: Final = b',"at":"'
DOCUMENT: Final = b',"doc":'
PATCH: Final = b',"patch":'
_BASE: Final = b',"base":'
_VERSION: Final = b',"version":'
_TIME: Final = len("2026-11-23T05:22:46.405Z")

_PARSED_UP_TO: Final = 64 * 1024
"""Bytes of a body whose patch is parsed for its paths."""


def places(body: bytes) -> tuple[int, int, int]:
    """Return where the members `op`, `base` and `at` begin. Raises `ValueError` for a body that is no event."""
    op, at = body.index(OP), body.rindex(AT)
    return op, body.index(_BASE, op), at


def content_start(body: bytes, op: int, at: int) -> int:
    """Return where the document or the patch begins, right behind the version, a number; `at` without any."""
    content = body.find(b",", body.index(_VERSION, op) + len(_VERSION), at)
    return content if content >= 0 and body.startswith((DOCUMENT, PATCH), content) else at


def operation_of(body: bytes) -> str:
    """Return `op`; of a damaged body, any text."""
    begin = body.find(OP) + len(OP)
    return body[begin : body.find(b'"', begin)].decode(errors="replace")


def committed_at(body: bytes) -> float | None:
    """Return the time of the change, in Unix seconds; None if the body does not say it."""
    begin = body.rfind(AT) + len(AT)
    try:
        return datetime.fromisoformat(body[begin : begin + _TIME].decode("ascii")).timestamp()
    except ValueError:
        return None


def stamp_of(body: bytes) -> dict[str, Any]:
    """Return the members from `at` on: when the change was made, and by whom. None of them for a damaged body."""
    try:
        stamp: dict[str, Any] = orjson.loads(b"{" + body[body.rindex(AT) + 1 :])
    except ValueError:
        return {}
    return stamp


def without_content(body: bytes) -> dict[str, Any]:
    """Return all members but the document or the patch, with the paths of a patch that is not large.

    Raises `ValueError` for a body that is no event.
    """
    op, _, at = places(body)
    start = content_start(body, op, at)
    head: dict[str, Any] = orjson.loads(body[:start] + b"}")
    if len(body) <= _PARSED_UP_TO and body.startswith(PATCH, start):
        head["paths"] = [step["path"] for step in orjson.loads(body[start + len(PATCH) : at])]
    return head | stamp_of(body)
