"""The lag that servers and workers report, and what the overview of any server makes of it."""

from __future__ import annotations

from typing import Any

import httpx

from eventsync.settings import Settings
from eventsync.stores.stats.processes import Process
from eventsync.stores.stores import Stores
from support.systems import running_system
from support.waiting import eventually, patience

SEVERAL = 20


async def test_server_is_not_behind_what_came_after_its_report(settings: Settings) -> None:
    """Records are compared with the log of their own time: another server's is as old as the period."""
    given = settings.model_copy(update={"collections": ("orders",), "report_interval": 60.0})
    async with running_system(given) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        for number in range(SEVERAL):
            await client.put(f"/v1/collections/orders/documents/{number}", json={"n": number})

        async def are_known() -> dict[str, Any] | None:
            found: dict[str, Any] = (await client.get("/v1/admin/overview")).json()
            return found if found["log"]["head"].endswith(f":{SEVERAL}") and found["lag"]["events"] == 0 else None

        found = await eventually(are_known, 20)
        assert [server["lag_events"] for server in found["servers"]] == [0]
        assert found["totals"]["lag_events"] == 0


async def test_worker_that_is_behind_is_a_problem(settings: Settings, stores: Stores) -> None:
    given = settings.model_copy(update={"collections": ("orders",), "report_interval": 60.0})
    async with running_system(given) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:

        async def leads() -> dict[str, Any] | None:
            found: dict[str, Any] = (await client.get("/v1/admin/overview")).json()
            return found if [worker["lag_seconds"] for worker in found["workers"] if worker["leads"]] == [0.0] else None

        found = await eventually(leads, 20)
        processes = stores.stats.processes
        (worker,) = (await processes.running()).of("worker")
        assert worker.state["lag"] == {"events": 0, "seconds": 0.0}
        assert "log_behind" not in [problem["code"] for problem in found["problems"]]

        behind = {"jobs": {}, "lag": {"events": 7, "seconds": 42.0}}
        await processes.renew(Process(worker.process.name, "worker"), behind)

        async def is_behind() -> dict[str, Any] | None:
            found: dict[str, Any] = (await client.get("/v1/admin/overview")).json()
            return found if found["lag"]["events"] == 7 else None

        found = await eventually(is_behind, 20)
        assert found["lag"]["seconds"] == 42.0
        assert [worker["lag_seconds"] for worker in found["workers"]] == [42.0]
        whats = [problem["what"] for problem in found["problems"] if problem["code"] == "log_behind"]
        assert whats == ["the log is 42 s behind the changes"]
