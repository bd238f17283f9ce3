"""Records of running processes: renewed, requested of, and gone with their process."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from eventsync.settings import Settings
from eventsync.stores.stats.processes import Process, ProcessStore, SessionQuery
from eventsync.stores.stores import Stores

SERVER, WORKER = Process("$host:1:a", "server"), Process("host:2:b", "worker")
OTHER = Process("$host:3:c", "server")
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
    assert (await silent.refusals(9, besides=OTHER)).counts == {}
    assert len((await ProcessStore(stores.log, 60.0).running()).processes) == 1


async def test_newest_refusals_of_other_servers_are_merged(processes: ProcessStore) -> None:
    def refusals(*times: float) -> dict[str, Any]:
        return {"counts": {"$policy": len(times)}, "recent": [{"at": at, "subject": "$at"} for at in times]}

    third = Process("host:4:d", "server")
    assert (await processes.renew(SERVER, {}, None, refusals(9.0, 1.0))).refused == 2
    assert (await processes.renew(OTHER, {}, None, refusals(7.0, 3.0))).refused == 2
    assert (await processes.renew(third, {})).refused is None
    await processes.renew(WORKER, {})
    assert (await processes.renew(OTHER, {})).refused == 2, "a renewal without refusals leaves them"
    found = await processes.refusals(3, besides=WORKER)
    assert found.counts == {SERVER.name: {"$policy": 2}, OTHER.name: {"$policy": 2}, third.name: None}
    assert found.recent == [
        {"at": 9.0, "subject": "$at", "server": SERVER.name},
        {"at": 7.0, "subject": "$at", "server": OTHER.name},
        {"at": 3.0, "subject": "$at", "server": OTHER.name},
    ]
    assert [line["at"] for line in (await processes.refusals(9, besides=SERVER)).recent] == [7.0, 3.0]
    await processes.remove(OTHER)
    assert (await processes.refusals(9, besides=SERVER)).recent == []


async def test_sessions_are_listed_while_they_are_watched(processes: ProcessStore) -> None:
    assert not (await processes.renew(SERVER, {"connections": {}})).is_watched
    await processes.renew(OTHER, {"connections": {"sse": 2, "websocket": 1}})
    (nothing,) = await processes.listings(SessionQuery(), besides=SERVER)
    assert (nothing.server, nothing.connections, nothing.listed) == (OTHER.name, 3, 0)
    # Both are asked, also the one that answers: another one may want to close its sessions.
    assert (await processes.renew(SERVER, {"connections": {}}, [SESSION])).is_watched
    assert (await processes.renew(OTHER, {"connections": {"sse": 1}}, [SESSION])).is_watched
    (found,) = await processes.listings(SessionQuery(), besides=SERVER)
    assert (found.connections, found.listed, found.sessions) == (1, 1, [SESSION])


async def test_processes_are_asked_again_before_they_stop_to_list(processes: ProcessStore, stores: Stores) -> None:
    async def asked() -> datetime:
        await processes.listings(SessionQuery(), besides=WORKER)
        row: Any = await stores.log["processes"].find_one({"_id": SERVER.name})
        found: datetime = row["watched"]
        return found

    await processes.renew(SERVER, {"connections": {}})
    first = await asked()
    assert await asked() == first
    await processes.renew(OTHER, {"connections": {}})
    with_another = await asked()
    assert with_another > first
    await stores.log["processes"].update_many({}, {"$set": {"watched": first - timedelta(seconds=20)}})
    assert await asked() > with_another


@pytest.mark.parametrize(
    ("query", "chosen"),
    [
        (SessionQuery(5), "abc"),
        (SessionQuery(2), "ab"),
        (SessionQuery(1, "a"), "b"),
        (SessionQuery(5, "c"), ""),
        (SessionQuery(5, equal={"id": "b"}), "b"),
        (SessionQuery(5, equal={"sub": "$sub"}), "bc"),
        (SessionQuery(5, equal={"sub": "$sub", "transport": "sse"}), "c"),
        (SessionQuery(5, equal={"shape": "$orders.x"}), "ac"),
        (SessionQuery(5, equal={"server": OTHER.name}), "abc"),
        (SessionQuery(5, equal={"server": SERVER.name}), ""),
    ],
)
async def test_query_chooses_sessions_by_id(processes: ProcessStore, query: SessionQuery, chosen: str) -> None:
    shapes = [{"shape": "y"}, {"shape": "$orders.x"}]
    sessions = [
        {"id": "c", "sub": "$sub", "transport": "sse", "shapes": shapes},
        {"id": "a", "sub": "ada", "transport": "sse", "shapes": shapes},
        {"id": "b", "sub": "$sub", "transport": "websocket", "shapes": shapes[:1]},
    ]
    await processes.renew(OTHER, {"connections": {"sse": 4}}, sessions)
    (found,) = await processes.listings(query, besides=SERVER)
    assert "".join(session["id"] for session in found.sessions) == chosen
    assert found.listed == 3


async def test_request_to_close_reaches_the_process_once(processes: ProcessStore) -> None:
    await processes.renew(SERVER, {}, [SESSION])
    assert await processes.request_close("s2", besides=WORKER) is None
    assert await processes.request_close("s1", besides=SERVER) is None
    assert await processes.request_close("s1", besides=WORKER) == SERVER.name
    assert await processes.request_close("s1", besides=WORKER) == SERVER.name
    assert (await processes.renew(SERVER, {}, [SESSION])).closing == ("s1",)
    assert (await processes.renew(SERVER, {}, [SESSION])).closing == ()
