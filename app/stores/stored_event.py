"""An event as readers get it, and the row of `events` that it is read from."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

from app.domain.event import Group
from app.domain.ids import IdText
from app.domain.position import Seq


class StoredEvent(NamedTuple):
    """`body` is its JSON, ready to send.

    (A frozen dataclass takes four times as long to make, and every event that is read is made into one.)
    """

    seq: Seq
    collection: str
    id: IdText
    body: bytes
    group: Group | None = None

    @property
    def closes(self) -> bool:
        """Whether a reader may stop after it: it is no part of a transaction, or its last one."""
        return self.group is None or self.group.n == self.group.of


def stored_event(row: dict[str, Any]) -> StoredEvent:
    """An `events` document that has its body, read back."""
    body, group = row["b"], row.get("g")
    return StoredEvent(
        row["_id"]["n"],
        row["c"],
        row["i"],
        body.encode() if isinstance(body, str) else zlib.decompress(body),
        Group(group["id"], group["n"], group["of"]) if group else None,
    )
