"""Records of running processes: renewed, requested of, and gone with their process."""

from __future__ import annotations

import pytest

from eventsync.settings import Settings
from eventsync.stores.stats.processes import Process, ProcessStore
from eventsync.stores.stores import Stores

SERVER, WORKER = Process("$host:1:a", "server"), Process("host:2:b", "worker")
SESSION = {"id": "s1", "shapes": [{"shape": "$orders.x", "position": "a:1"}]}


@pytest.fixture
def processes(stores: Stores) -> ProcessStore:
    return stores.stats.processes


async def test_record_is_renewed_and_removed(processes: ProcessStore) -> None:
    await processes.ensure_indexes()
    await processes.renew(SERVER, {"text": "$at", "rate": 1.5})
    await processes.renew(WORKER, {})
    running = await processes.running()
    assert [each.process for each in running.processes] == [SERVER, WORKER]
    (server,) = running.of("server")
    assert server.state == {"text": "$at", "rate": 1.5}
    assert server.uptime >= server.age >= 0
    await processes.remove(SERVER)
    assert [each.process for each in (await processes.running()).processes] == [WORKER]


async def test_process_that_is_not_heard_does_not_run(stores: Stores, settings: Settings) -> None:
    silent = ProcessStore(stores.log, -1.0)
    await silent.renew(SERVER, {})
    assert (await silent.running()).processes == []
    assert len((await ProcessStore(stores.log, 60.0).running()).processes) == 1


async def test_sessions_are_listed_while_they_are_watched(processes: ProcessStore) -> None:
    assert not (await processes.renew(SERVER, {})).is_watched
    await processes.watch_sessions()
    assert (await processes.renew(SERVER, {})).is_watched
    await processes.renew(SERVER, {}, [SESSION])
    assert (await processes.running(with_sessions=True)).processes[0].sessions == [SESSION]
    assert (await processes.running()).processes[0].sessions is None


async def test_request_to_close_reaches_the_process_once(processes: ProcessStore) -> None:
    await processes.renew(SERVER, {}, [SESSION])
    assert await processes.request_close("s2", besides=WORKER) is None
    assert await processes.request_close("s1", besides=SERVER) is None
    assert await processes.request_close("s1", besides=WORKER) == SERVER.name
    assert await processes.request_close("s1", besides=WORKER) == SERVER.name
    assert (await processes.renew(SERVER, {}, [SESSION])).closing == ("s1",)
    assert (await processes.renew(SERVER, {}, [SESSION])).closing == ()
