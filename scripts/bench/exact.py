"""A run whose clients were not exact has no figures."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from scripts.bench.crowd.messages import WrongError

T = TypeVar("T")


def run_exact(measuring: Coroutine[Any, Any, T]) -> T:
    """Return the result of `measuring`. Exit with 1 and the reason if a client missed an event or had one twice."""
    try:
        return asyncio.run(measuring)
    except* WrongError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        sys.exit(f"not exact, so no figures: {first}")
