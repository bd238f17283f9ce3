"""Everybody at once: after a restart, from behind the window, and with nothing at all."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from scripts.bench.long_log import Rows, once
from scripts.bench.memory import Memory
from scripts.bench.pulse import pulse
from scripts.bench.report import Table
from scripts.bench.sessions_stage import Clock, Figures, Stage, say

_PATIENCE: Final = 40.0
"""Seconds for which the writes go on, at most, where somebody does not become live."""

_AFTERWARDS: Final = 150.0
"""Seconds within which, without writes, everybody has to be exact."""

_STEADY: Final = 3.0
"""Seconds for which the server is watched once everybody is live."""

_STORM: Final = """\
A server is stopped while clients are live on it; events are written; a fresh server starts on the same port, and the
moment that it listens everybody reconnects at once with the own position, and again, as advised, where it is refused.
Writes go on meanwhile. *behind*: so many events missed that none of the clients is in the server's window. *bootstrap*:
clients that have nothing. *p50 s*, *all live s*: seconds from listening until half of the clients, and the last one,
were live with all that they had missed; *late*: those that were not after 40 s, when the writes end anyway. *exact s*:
seconds from the last write until each is exactly at the head; each then had counted every event exactly once.
`/healthz`: asked 20 times a second until all were live, over new connections, in ms; *failed* took more than 30 s. MiB
are resident sets of the server, the CPU its own until all were live (beside it that of the clients' process, of one
core too); *steady CPU %*: its share of a core behind that, while the writes go on. *goodbye s*: from SIGTERM until no
client was connected any more."""

_KINDS: Final = """\
The same storms: how attempts ended before a client was served (*refused*), how connections ended behind that (*cut*),
how the server before had ended them (*told*), and whether any client was brought on by something else than events."""


class Storms:
    """The storms on one stage, one after the other."""

    def __init__(self, stage: Stage, rate: float) -> None:
        self._stage = stage
        self._rate = rate
        self._next = 1
        """The seq of the next event."""
        self._rows: Rows = {}
        self._kinds: dict[str, dict[str, float]] = {}

    async def restart(self, name: str, transport: str, *, clients: int, missed: int, **changed: Any) -> None:
        """Clients that are live, a restart, and what follows; `missed` events are written in between."""
        stage, crowd = self._stage, self._stage.crowd
        async with stage.serving(**changed):
            await stage.ready()
            await self._begin()
            await crowd.ask("open", transport=transport, count=clients, seq=self._next - 1)
            await crowd.ask("hold")
            goodbye = asyncio.create_task(crowd.ask("ended", seconds=30.0), name="see everybody go")
            await asyncio.sleep(0.1)
            began = time.monotonic()
        parted = await goodbye
        await stage.write(self._next, missed)
        self._next += missed
        await stage.log.reached(self._next - 1)
        await crowd.ask("hold")
        self._kinds[name] = {f"told {how}": count for how, count in parted["ends"].items()}
        async with stage.serving(**changed) as pid:
            await self._stormed(pid, name, {"goodbye s": max(0.0, parted["at"] - began)})

    async def bootstrap(self, name: str, transport: str, *, clients: int) -> None:
        """Clients that have nothing, all at once, and a fresh server."""
        await self._begin()
        await self._stage.crowd.ask("add", transport=transport, count=clients, seq=None)
        async with self._stage.serving() as pid:
            await self._stormed(pid, name, {"goodbye s": 0.0})

    def tables(self) -> list[Table]:
        """Return the tables of results."""
        kinds = sorted({kind for row in self._kinds.values() for kind in row})
        counts = {name: once({kind: row.get(kind, 0.0) for kind in kinds}) for name, row in self._kinds.items()}
        return [Table("Everybody at once", _STORM, self._rows), Table("How it ended", _KINDS, counts)]

    async def _begin(self) -> None:
        stage = self._stage
        await stage.crowd.ask("begin", port=stage.settings.port, log=stage.log.name, documents=stage.history.documents)

    async def _stormed(self, pid: int, name: str, figures: Figures) -> None:
        stage, crowd, first = self._stage, self._stage.crowd, self._next
        async with stage.writing(first, self._rate) as written:
            async with pulse(stage.settings.port) as beat:
                await crowd.ask("release", seconds=30.0)
                before, clock, crowds = Memory.of(pid).rss / 1024, Clock(pid), Clock(crowd.pid)
                live = await crowd.ask("caught_up", seq=first - 1, seconds=_PATIENCE)
                # Of nobody the server alone is measured.
                await asyncio.sleep(0.0 if live["seconds"] else _STEADY)
                found = clock.figures() | {"clients' CPU %": crowds.figures()["CPU %"]}
            clock = Clock(pid)
            await asyncio.sleep(_STEADY)
            steady = clock.figures()["CPU %"]
        ended = time.monotonic()
        exact = await crowd.ask("exact", seq=first + len(written) - 1, seconds=_AFTERWARDS)
        self._next = first + len(written)
        refused, cut = exact["refusals"], exact["ends"]
        found |= {"steady CPU %": steady, "MiB before": before, "end MiB": Memory.of(pid).rss / 1024}
        counts = {"events counted": exact["events"], "refused": sum(refused.values()), "cut": sum(cut.values())}
        times = {
            "p50 s": live["p50"],
            "all live s": live["seconds"],
            "late": live["late"],
            "exact s": max(0.0, exact["at"] - ended),
        }
        say(f"{name}: {times}, {counts}, {found}, {beat.figures()}, {exact['ways']}")
        self._rows[name] = once(times | counts | beat.figures() | found | figures)
        kinds = self._kinds.setdefault(name, {})
        kinds |= {f"refused: {how}": count for how, count in refused.items()}
        kinds |= {f"cut: {how}": count for how, count in cut.items()}
        kinds |= {f"by {way}": 1.0 for way in exact["ways"] if way != "events"}
