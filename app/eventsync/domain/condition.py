"""Conditions on the state of a document, as `If-Match` and `If-None-Match` set them.

`If-Match` compares as `If-None-Match` does, weakly: `W/"…"` is the tag without `W/`. RFC 9110 asks for the strong
comparison there, which a weak tag never passes, because a weak tag may stand for two states. Ours never does: it names
the state of the document and not the bytes of an answer, and only a proxy that compresses answers makes it weak (nginx
with `gzip on`). SCIM (RFC 7644 section 3.14) and OData compare their tags in the same way.

A tag without a digest, `"7"`, names a version alone, and so each state that has it.

Source: https://www.rfc-editor.org/rfc/rfc9110#section-13
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventsync.domain.entity_tag import digest_of
from eventsync.errors import Malformed

_ITEM: Final = re.compile(r'[ \t]*(?:(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)")?[ \t]*(?:,|\Z)')
_BLANK: Final = " \t"

State = tuple[int, Mapping[str, Any]] | None
"""A document's version, and the document without `_sync`; None where there is none."""


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of a header without their quotes; `any_state` where it is `*`."""

    opaque: frozenset[str] = frozenset()
    any_state: bool = False

    @classmethod
    def parse(cls, lines: Iterable[str], name: str) -> Tags:
        """Read the values of all lines of the header `name`. Raises `Malformed`."""
        text = ",".join(lines)
        if text.strip(_BLANK) == "*":
            return cls(any_state=True)
        found, at = [], 0
        while at < len(text):
            if not (item := _ITEM.match(text, at)):
                raise Malformed(
                    f"{name} takes entity tags in quotes, as ETag gives them, or *; not {text[at : at + 64]!r}"
                )
            if item[1] is not None:
                found.append(item[1])
            at = item.end()
        if not found:
            raise Malformed(f"{name} names no entity tag")
        return cls(frozenset(found))

    @classmethod
    def of_version(cls, version: int) -> Tags:
        """Return the tag that names a version alone."""
        return cls(frozenset({str(version)}))

    def name(self, state: State, *, versions: bool = True) -> bool:
        """Tell whether one of them names the state. With `versions`, a tag without a digest names a version alone."""
        if state is None or self.any_state:
            return state is not None
        version, document = state
        if versions and str(version) in self.opaque:
            return True
        # Most are of another version: then nobody has to digest anything.
        if not any(tag.startswith(f"{version}.") for tag in self.opaque):
            return False
        return f"{version}.{digest_of(document)}" in self.opaque


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the stored document, without which a write is not made. None: any state will do."""

    match: Tags | None = None
    none_match: Tags | None = None

    @classmethod
    def at_version(cls, version: int) -> Condition:
        """Return the condition that the document exists and is at `version`."""
        return cls(match=Tags.of_version(version))

    @classmethod
    def absent(cls) -> Condition:
        """Return the condition that there is no such document."""
        return cls(none_match=Tags(any_state=True))

    def holds(self, state: State) -> bool:
        """Tell whether the write may be made (RFC 9110 section 13.2.2: `If-Match` first)."""
        if self.match is not None and not self.match.name(state):
            return False
        return self.none_match is None or not self.none_match.name(state)
