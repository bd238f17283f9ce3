"""Header values that the responses of several endpoints share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

NO_STORE: Final[Mapping[str, str]] = {"Cache-Control": "no-store"}

IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""`Cache-Control` of a response that never changes: any cache may keep it for a year."""
