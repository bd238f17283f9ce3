"""Finds the last error in mongod's log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_TAIL: Final = 64 * 1024
_GRAVE: Final = frozenset({"E", "F"})


def last_error(file: Path) -> str:
    """Return the newest error in the log and the log's path, on one line."""
    found = ""
    for line in _last_lines(file):
        entry = _entry(line)
        if entry is None:
            # Output of the loader or of a sanitizer, which is not JSON.
            found = line.strip() or found
        elif entry.get("s") in _GRAVE and not _is_trace(entry):
            found = _text(entry)
    return f"{found} (see {file})" if found else f"see {file}"


def _last_lines(file: Path) -> list[str]:
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        return stream.read().decode(errors="replace").splitlines()


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _is_trace(entry: dict[str, Any]) -> bool:
    """Return True for an entry that only reports how a fatal error ends the process."""
    return entry.get("c") == "CONTROL" or str(entry.get("msg", "")).startswith(("Fatal assertion", "\n\n***"))


def _text(entry: dict[str, Any]) -> str:
    attributes = entry.get("attr", {})
    detail = attributes.get("error") or attributes.get("message") or attributes.get("reason") or ""
    if isinstance(detail, dict):
        detail = detail.get("errmsg") or json.dumps(detail)
    return f"{entry.get('msg', '')}: {detail}" if detail else str(entry.get("msg", ""))
