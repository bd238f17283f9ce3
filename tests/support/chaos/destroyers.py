"""The nemeses of what is stored: the log is dropped, loses events, or is turned back together with the collections."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from bson.int64 import Int64
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import PyMongoError

from support.chaos.rig import Rig
from support.environment import environment_of
from support.program import finished
from support.waiting import patience, within

_SETTLE = 30.0


async def drop_log(rig: Rig) -> None:
    """The log's database is dropped under everybody's feet; a new log begins by itself."""
    before = await _current(rig)
    with suppress(PyMongoError):
        await rig.client.drop_database(rig.settings.log_db)
    await _renewed(rig, before)


async def delete_events(rig: Rig) -> None:
    """Two of the newest events are deleted; an operator sees it, and begins a new log."""
    before, seq = await _with_events(rig)
    if seq > 6:
        gone = [{"l": before, "n": Int64(number)} for number in (seq - 4, seq - 3)]
        await _events(rig).delete_many({"_id": {"$in": gone}})
    await _reset_damaged_log(rig, before)


async def overwrite_event(rig: Rig) -> None:
    """One of the newest events becomes unreadable; an operator sees it, and begins a new log."""
    before, seq = await _with_events(rig)
    await _events(rig).update_one({"_id": {"l": before, "n": Int64(seq)}}, {"$set": {"b": "{damaged"}})
    await _reset_damaged_log(rig, before)


async def _reset_damaged_log(rig: Rig, before: str) -> None:
    await asyncio.sleep(rig.choose.uniform(0.5, 2.0))
    await _reset_log(rig)
    await _renewed(rig, before)


def _events(rig: Rig) -> AsyncCollection[dict[str, Any]]:
    return rig.client[rig.settings.log_db]["events"]


async def restore_backup(rig: Rig) -> None:
    """All members get back an older copy of their data, log and all; servers, workers and clients live through it."""
    log_id, _ = await _with_events(rig)
    copies = [(member.data, member.data.with_name(f"{member.data.name}.backup")) for member in rig.cluster.members]
    await _while_all_are_dead(rig, lambda: [shutil.copytree(data, copy) for data, copy in copies])
    # Events were appended until the copy was made: only what is there now is surely no less than what the copy has.
    _, seq = await _with_events(rig)
    await _read_by_servers(rig, log_id, seq + 5)
    await _while_all_are_dead(rig, lambda: _put_back(copies))
    await _renewed(rig, log_id)


def _put_back(copies: Sequence[tuple[Path, Path]]) -> None:
    """Replace what data directories hold. The directories themselves stay: disks of their own may be mounted there."""
    for data, copy in copies:
        for entry in data.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        shutil.copytree(copy, data, dirs_exist_ok=True)
        shutil.rmtree(copy)


async def _with_events(rig: Rig) -> tuple[str, int]:
    """Wait until the newest log has events; return its id and the newest seq. An empty one can not be turned back."""
    async with within(_SETTLE):
        while True:
            with suppress(PyMongoError):
                log_id = await _current(rig)
                if newest := await _events(rig).find_one({"_id.l": log_id}, sort=[("_id", -1)]):
                    return str(log_id), int(newest["_id"]["n"])
            await asyncio.sleep(0.05)


async def _read_by_servers(rig: Rig, log_id: str, seq: int) -> None:
    """Wait until every server has read event `seq`: what a server has read is what tells afterwards."""
    async with within(_SETTLE), httpx.AsyncClient(timeout=_SETTLE) as client:
        for url in rig.fleet.urls:
            while True:
                with suppress(httpx.TransportError):
                    name, _, number = str((await client.get(f"{url}/readyz")).json().get("position")).partition(":")
                    if name == log_id and int(number) >= seq:
                        break
                await asyncio.sleep(0.05)


async def _while_all_are_dead(rig: Rig, act: Callable[[], object]) -> None:
    """Kill all members, do something with their data, and start them again."""
    await asyncio.gather(*(member.kill() for member in rig.cluster.members))
    act()
    for member in rig.cluster.members:
        member.start()
    await rig.cluster.healthy()


async def _current(rig: Rig) -> str | None:
    """Return the id of the newest log; None where there is none."""
    with suppress(PyMongoError):
        found: dict[str, Any] | None = await rig.client[rig.settings.log_db]["logs"].find_one(sort=[("number", -1)])
        return found["_id"] if found else None
    return None


async def _renewed(rig: Rig, before: str | None) -> None:
    """Wait until there is another log than `before`, and count it."""
    async with within(_SETTLE):
        while (await _current(rig)) in {before, None}:  # noqa: ASYNC110 - the event is in the worker
            await asyncio.sleep(0.05)
    rig.ended["a new log began"] += 1


async def _reset_log(rig: Rig) -> None:
    """Run `eventsync reset-log` as an operator would, again while MongoDB can't be used."""
    environment = environment_of(rig.settings)
    async with within(_SETTLE):
        while (
            done := await finished("reset-log", "--yes", environment=environment, seconds=patience(_SETTLE))
        ).exit_code:
            rig.ended[f"reset-log failed: {(done.stdout + done.stderr)[-80:]}"] += 1
