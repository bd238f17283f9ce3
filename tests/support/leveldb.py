"""Logs of LevelDB, in which Chromium keeps IndexedDB, as a killed browser leaves them.

A process that is killed while it appends leaves an incomplete record at the end of a log. LevelDB ignores that record
when it opens the database, and appends to the same file behind it; when it opens the database the next time, it finds
a damaged record in the middle (https://github.com/google/leveldb/issues/1287). Chromium then deletes all databases of
the origin.

Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

_BLOCK: Final = 32_768
_HEAD: Final = struct.Struct("<IHB")
_FIRST: Final = 2
_MIDDLE: Final = 3


def complete_length(log: bytes) -> int:
    """Return the number of bytes up to the end of the last complete record."""
    at = complete = 0
    while at + _HEAD.size <= len(log):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD.size:  # filled with zeros
            at += left
            continue
        _, length, kind = _HEAD.unpack_from(log, at)
        at += _HEAD.size + length
        if at > len(log):
            break
        if kind not in {_FIRST, _MIDDLE}:
            complete = at
    return complete


def cut_incomplete_records(database: Path) -> int:
    """Cut what LevelDB should not append to off the logs of a database. Returns how many logs had such a record."""
    cut = 0
    for path in [*database.glob("*.log"), *database.glob("MANIFEST-*")]:
        log = path.read_bytes()
        length = complete_length(log)
        # Zeros that fill a block are no record.
        if log[length:].strip(b"\0"):
            os.truncate(path, length)
            cut += 1
    return cut
