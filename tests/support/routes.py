"""Definitions that are simple enough to be right: the parts of a collection by the values of one field."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def key_of(name: str, value: Any) -> bytes:
    """Return the key of the part of a definition in which the field has a value."""
    return hashlib.blake2b(f"{name}={value!r}".encode(), digest_size=16).digest()


@dataclass
class Field:
    """A part for each value of one top-level field, or for each item if it is an array."""

    name: str
    collection: str = "orders"

    def keys(self, document: Mapping[str, Any]) -> frozenset[bytes] | None:
        """Return the keys of a document."""
        if self.name not in document:
            return frozenset()
        value = document[self.name]
        return frozenset(key_of(self.name, item) for item in (value if isinstance(value, list) else [value]))
