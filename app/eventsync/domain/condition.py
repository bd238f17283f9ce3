"""Conditions on the state of a document, as `If-Match` and `If-None-Match` set them.

`If-Match` uses the weak comparison, as `If-None-Match` does: `W/"…"` equals the tag without `W/`. RFC 9110 requires the
strong comparison, because a weak tag may stand for several states. Our tags never do: they identify the state of the
document and not the bytes of a response, and become weak only in a proxy that compresses (nginx with `gzip on`). SCIM
(RFC 7644 section 3.14) and OData also compare their tags weakly.

A tag without a digest, `"7"`, matches every state of that version.

Source: https://www.rfc-editor.org/rfc/rfc9110#section-13
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from eventsync.domain.entity_tag import digest_of
from eventsync.errors import Malformed

_ITEM: Final = re.compile(r'[ \t]*(?:(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|\Z)')
"""An entity tag or nothing, up to the next comma. Two runs of blanks side by side would take quadratic time."""

MAX_TAGS: Final = 8192
"""Most characters of a list of entity tags."""

_BLANK: Final = " \t"

State = tuple[int, Mapping[str, Any]] | None
"""A document's version and its content without `_sync`; None if there is no document."""


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of a header without their quotes. `any_state` is True for `*`."""

    opaque: frozenset[str] = frozenset()
    any_state: bool = False

    @classmethod
    def parse(cls, lines: Iterable[str], name: str) -> Tags:
        """Read the values of all lines of the header `name`. Raises `Malformed`."""
        text = ",".join(lines)
        if len(text) > MAX_TAGS:
            raise Malformed(f"{name} has at most {MAX_TAGS} characters")
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
        """Return True if a tag matches the state. With `versions`, a tag without a digest matches by version."""
        if state is None or self.any_state:
            return state is not None
        version, document = state
        if versions and str(version) in self.opaque:
            return True
        # Most tags are of another version, so the digest is rarely computed.
        if not any(tag.startswith(f"{version}.") for tag in self.opaque):
            return False
        return f"{version}.{digest_of(document)}" in self.opaque


@dataclass(frozen=True, slots=True)
class Condition:
    """A precondition of a write on the stored document. None accepts any state."""

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
        """Return True if the write may proceed (RFC 9110 section 13.2.2: `If-Match` first)."""
        if self.match is not None and not self.match.name(state):
            return False
        return self.none_match is None or not self.none_match.name(state)
