"""Takes out of each lock what the locks that it includes have. `scripts/lock` runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

LOCKS: Final = Path(__file__).resolve().parent.parent / "locks"

INCLUDED: Final = {
    "docs": ("build",),
    "local": ("runtime", "build"),
    "otel": ("runtime",),
    "dev": ("local", "docs", "otel"),
}
"""Lock → the locks that it includes. Each stands before those that include it."""

_ENTRY: Final = re.compile(r"^[^#\s-].*\n(?: .*\n)*", re.MULTILINE)
"""A release with its hashes."""


def main() -> None:
    entries = {file.stem: _ENTRY.findall(file.read_text()) for file in LOCKS.glob("*.txt")}
    for name, included in INCLUDED.items():
        known = {entry for other in included for entry in _all(other, entries)}
        entries[name] = [entry for entry in entries[name] if entry not in known]
        file = LOCKS / f"{name}.txt"
        header = re.findall(r"^#.*\n", file.read_text(), re.MULTILINE)
        file.write_text("".join([*header, *(f"-r {other}.txt\n" for other in included), *entries[name]]))


def _all(name: str, entries: dict[str, list[str]]) -> list[str]:
    """Return the entries of a lock and of those that it includes."""
    return [*entries[name], *(entry for other in INCLUDED.get(name, ()) for entry in _all(other, entries))]


if __name__ == "__main__":
    main()
