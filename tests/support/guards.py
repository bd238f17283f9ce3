"""A guard made of parts, for tests of what asks one. The guards of rules have tests of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eventsync.domain.access.redaction import Redaction
from eventsync.domain.patches.diff import diff
from eventsync.domain.patches.json_patch import JsonPatch
from eventsync.domain.values.extended_json import same
from eventsync.errors import Forbidden


@dataclass(frozen=True)
class OwnersGuard:
    """Reads what `owner` owns and what is public; writes what `owner` owns, but never `hidden` fields."""

    owner: str
    hidden: tuple[str, ...] = ()

    @property
    def redaction(self) -> Redaction:
        return Redaction(tuple(tuple(path.split(".")) for path in self.hidden))

    def _owns(self, document: Mapping[str, Any]) -> None:
        if document.get("owner") != self.owner:
            raise Forbidden("the rules do not allow this write")

    def create(self, after: Mapping[str, Any]) -> None:
        self._owns(after)
        if self.redaction.strip(after) != after:
            raise Forbidden("a hidden field can't be written")

    def edit(self, before: Mapping[str, Any], edit: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        self._owns(before)
        seen = self.redaction.strip(before)
        patch = diff(seen, edit(seen))
        if any(map(self.redaction.is_touched, patch)):
            raise Forbidden("a hidden field can't be written")
        after: dict[str, Any] = JsonPatch(patch).prepared(operations=1000, document_bytes=10**7, steps=10**7)(
            dict(before)
        )
        self._owns(after)
        return after

    def delete(self, before: Mapping[str, Any]) -> None:
        self._owns(before)

    def shown(self, document: Mapping[str, Any]) -> dict[str, Any] | None:
        readable = document.get("owner") == self.owner or same(document.get("public"), True)
        return self.redaction.strip(document) if readable else None

    def redacted(self, patch: Sequence[Any]) -> list[Any]:
        return self.redaction.redact(patch)

    def hides(self, path: str) -> bool:
        return self.redaction.hides(path)
