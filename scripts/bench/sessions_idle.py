"""Server memory per idle connection, over each transport."""

from __future__ import annotations

from dataclasses import astuple
from typing import Final

from scripts.bench.long_log import Rows, once
from scripts.bench.memory import Memory
from scripts.bench.report import Table
from scripts.bench.sessions_stage import Clock, Stage, say, settled

_NOTHING: Final = Memory(0, 0, 0)

IDLE: Final = """\
Live connections to one collection in which nothing happens, opened one after the other (64 at a time), for each
transport on a fresh server. MiB are resident sets. *KiB each*: what the server has more than without connections, by
connection; USS: the same, only pages that it shares with no other process; *KiB each more*: beyond the row before.
*CPU ms each* is what opening one costs the server. The last row of a transport is after all have left. What the kernel
keeps for sockets is not counted."""


async def idle(stage: Stage, sizes: list[int]) -> Table:
    """Each transport at each number of connections, ascending."""
    rows: Rows = {}
    for transport in ("websocket", "sse", "poll"):
        async with stage.serving() as pid:
            await stage.ready()
            # What every first request costs once is no connection's.
            await _open(stage, transport, 20)
            empty = await _left(stage, pid)
            rows[f"{transport}, 0"] = _row(empty)
            before, had = empty, 0
            for size in sizes:
                clock = Clock(pid)
                await _open(stage, transport, size - had)
                await settled(pid)
                opened, now = clock.figures()["server CPU s"] * 1000 / (size - had), Memory.of(pid)
                row = _row(now, each=_each(now, empty, size), more=_each(now, before, size - had), opened=opened)
                rows[f"{transport}, {size:,}"] = row
                say(f"{transport}, {size:,}: {row}")
                before, had = now, size
            rows[f"{transport}, all gone"] = _row(await _left(stage, pid))
    return Table("Idle connections", IDLE, rows)


async def _open(stage: Stage, transport: str, count: int) -> None:
    await stage.crowd.ask("open", transport=transport, count=count, seq=0)


async def _left(stage: Stage, pid: int) -> Memory:
    """The server's memory when all have gone."""
    await stage.crowd.ask("begin", port=stage.settings.port, log=stage.log.name, documents=stage.history.documents)
    await settled(pid)
    return Memory.of(pid)


def _each(now: Memory, before: Memory, count: int) -> Memory:
    """Return the memory added per connection, in KiB."""
    return Memory(
        *(round((after - earlier) / count, 1) for after, earlier in zip(astuple(now), astuple(before), strict=True))
    )


def _row(
    now: Memory, *, each: Memory = _NOTHING, more: Memory = _NOTHING, opened: float = 0.0
) -> dict[str, list[float]]:
    figures = {"RSS MiB": now.rss / 1024, "PSS MiB": now.pss / 1024, "USS MiB": now.uss / 1024}
    figures |= {"KiB each": each.rss, "USS KiB each": each.uss, "KiB each more": more.rss}
    return once(figures | {"CPU ms each": opened})
