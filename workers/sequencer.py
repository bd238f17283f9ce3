"""The sequencer: which log is written, and one term of leadership after another over it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from app.domain.replay import Damaged
from app.errors import TooLarge
from app.settings import Settings
from app.stores.changes import token_time, watch
from app.stores.log_state import NoBase
from app.stores.logs import Log, LogLost, cluster_identity
from app.stores.stores import Stores
from workers.states import StateReader
from workers.term import Term, pipeline

log = logging.getLogger(__name__)


class Sequencer:
    """Runs terms. `stopping` is asked between reads: a stop, or a lease that was lost."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self._stores = stores
        self._settings = settings
        self._states = StateReader(stores.snapshots)

    async def lead(self, stopping: Callable[[], bool]) -> None:
        """One term. Returns when `stopping`; raises `Fenced`, `StreamInterrupted` or `Unavailable` when it is over.

        A new log begins only where the old one can't be continued: it is lost, damaged, or of another deployment;
        somebody asked for it; or history is lost before the snapshot that a repair starts from is stored.
        """
        while not stopping():
            current = await self._open_log()
            try:
                await Term(self._stores, self._settings, self._states, current).run(stopping)
            except (LogLost, NoBase, Damaged, TooLarge) as error:
                log.warning("beginning a new log after %s: %s", current.id, error.diagnosis)
                await self._begin_log(current, error.diagnosis)

    async def _open_log(self) -> Log:
        current = await self._stores.logs.current()
        if current is None:
            return await self._begin_log(None, "the first log")
        if (cluster := await cluster_identity(self._stores.data)) != current.cluster:
            return await self._begin_log(current, f"MongoDB is {cluster}, the log belongs to {current.cluster}")
        return current

    async def _begin_log(self, previous: Log | None, reason: str) -> Log:
        cluster = await cluster_identity(self._stores.data)
        async with watch(self._stores.data, pipeline(())) as stream:
            token = stream.token
        begun = await self._stores.logs.begin(
            previous, cluster=cluster, reason=reason, token=token, time=token_time(token)
        )
        log.info("log %s begins: %s", begun.id, begun.reason)
        return begun
