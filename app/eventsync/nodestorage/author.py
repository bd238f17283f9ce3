"""The author of a write."""

from __future__ import annotations

import uuid
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Author:
    """The principal `by`, and the id of the operation, which the stored document and its event carry."""

    by: str
    op_id: str

    @classmethod
    def new(cls, by: str) -> Author:
        """Return the author of a new operation of `by`."""
        return cls(by, uuid.uuid4().hex)
