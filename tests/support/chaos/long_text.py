"""Documents of 15 MiB, as a run remembers them."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

_LONG = 1000


def shortened(value: Any) -> Any:
    """The same JSON, with a fingerprint in the place of each long string: 15 MiB are compared as well by it."""
    if isinstance(value, str):
        return value if len(value) <= _LONG else f"{len(value)} characters, {sha256(value.encode()).hexdigest()}"
    if isinstance(value, dict):
        return {name: shortened(item) for name, item in value.items()}
    return [shortened(item) for item in value] if isinstance(value, list) else value
