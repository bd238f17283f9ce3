"""An archiver that kills itself (kill -9) before or after a step: `python -m support.crashing_archiver STEP before`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from eventsync.mongodb.client import connect
from eventsync.settings import load_settings
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.archiver import Archiver
from eventsync_workers.jobs.sealer import Sealer
from eventsync_workers.jobs.trimming import HotTierTrimmer

Step = Callable[..., Awaitable[Any]]


def _deadly(step: Step, when: str) -> Step:
    async def died(*arguments: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await step(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    return died


async def _run(step: str, when: str) -> None:
    owner = next(kind for kind in (Sealer, HotTierTrimmer, Archiver) if hasattr(kind, step))
    made: Step = getattr(owner, step)
    # The methods of a class that this process uses for nothing else.
    setattr(owner, step, _deadly(made, when))
    settings = load_settings()
    async with connect(settings, "worker") as client:
        stores = Stores.of(client, settings)
        # By the name of its successor, which so needs not wait for the lease to run out.
        await Archiver(stores, settings, "me", asyncio.Event()).run_once()


if __name__ == "__main__":
    asyncio.run(_run(*sys.argv[1:]))
