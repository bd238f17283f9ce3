"""Names of the fields that redaction removes from an event, for inspection. Values are never part of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from eventsync.domain.patches.json_pointer import unescape
from eventsync.domain.routes import Transition
from eventsync.domain.views import Redactor

_ANY: Final = "*"
_LONGEST: Final = 100
"""Characters of a path that are shown."""


def removed_fields(body: bytes, transition: Transition, entered: bytes | None, redaction: Redactor) -> Counter[str]:
    """Return the paths of the fields that readers of an event do not get, each with how often it is removed.

    The body is that of the log; `entered` is the document beside it, for those that it enters. The items of an array
    are `*`. Raises `ValueError` for a body that is no event.
    """
    if transition == "leave":
        return Counter()
    event = orjson.loads(body)
    if transition == "enter" and entered is not None:
        event = {"doc": orjson.loads(entered)}
    if (document := event.get("doc")) is not None:
        found = _missing(document, redaction.strip(document), "")
    else:
        found = _missing_of_patch(event.get("patch", []), redaction)
    return Counter(path[:_LONGEST] for path in found)


def _missing_of_patch(patch: list[Any], redaction: Redactor) -> Iterator[str]:
    # One by one: what is left of an operation then needs no search.
    for operation in patch:
        path = ".".join(_ANY if name.isdigit() else name for name in map(unescape, operation["path"].split("/")[1:]))
        shown = redaction.redact([operation])
        if not shown:
            yield path
        elif "value" in operation:
            yield from _missing(operation["value"], shown[0]["value"], path)


def _missing(before: Any, after: Any, path: str) -> Iterator[str]:
    """Yield the paths of what is in `before` and not in `after`, which is `before` without some of its parts."""
    if before is after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name, value in before.items():
            inner = f"{path}.{name}" if path else name
            if name in after:
                yield from _missing(value, after[name], inner)
            else:
                yield inner
    elif isinstance(before, list) and isinstance(after, list):
        inner = f"{path}.{_ANY}" if path else _ANY
        if len(before) != len(after):
            yield inner
            return
        for value, shown in zip(before, after, strict=True):
            yield from _missing(value, shown, inner)
    elif before != after:
        yield path
