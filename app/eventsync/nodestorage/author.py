"""Who writes, and in which operation."""

from __future__ import annotations

import uuid
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Author:
    """The principal `by`, and the operation id that the stored document and its event carry."""

    by: str
    op_id: str

    @classmethod
    def new(cls, by: str) -> Author:
        """A new operation of `by`."""
        return cls(by, uuid.uuid4().hex)
