"""A point in history, as URLs and command lines name it: a version, a position of the log, or an instant. Pure.

Source: https://www.rfc-editor.org/rfc/rfc3339
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NewType

from eventsync.domain.positions import Position
from eventsync.errors import Malformed

Version = NewType("Version", int)
"""The version of a document. It grows with each write through the API, and restarts if the document is recreated."""

Point = Version | Position | datetime
"""A version, a position or an instant in UTC."""

_VERSION = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_DATE = re.compile(r"\d{4}-", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_point(text: str, *, versions: bool = True) -> Point:
    """Read a version, a position or an instant. Raises `Malformed`, which mentions versions if `versions` is set."""
    if _DATE.match(text):
        return parse_instant(text)
    if ":" in text:
        return Position.parse_in_log(text)
    if text.isdecimal():
        return parse_version(text)
    expected = "an instant (2026-11-23T05:22:46Z) or a position (log:seq)"
    raise Malformed(f"{text[:64]!r} is no point in time: expected {'a version (6), ' if versions else ''}{expected}")


def parse_version(text: str) -> Version:
    """Read a version in digits. Raises `Malformed`."""
    if not _VERSION.fullmatch(text):
        raise Malformed(f"{text[:64]!r} is no version: expected an integer, 0 or more")
    return Version(int(text))


def parse_instant(text: str) -> datetime:
    """Read a date and time of RFC 3339, truncated to microseconds. Raises `Malformed`."""
    refused = f"{text[:64]!r} is no instant: expected RFC 3339, 2026-11-23T05:22:46Z (in a URL, + is written %2B)"
    if not (match := _INSTANT.fullmatch(text)):
        raise Malformed(refused)
    fraction = (match[1] or ".")[1:7].ljust(6, "0")
    zone = "+00:00" if match[2] in "Zz" else match[2]
    try:
        return datetime.fromisoformat(f"{text[:10]}T{text[11:19]}.{fraction}{zone}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Malformed(refused) from error
