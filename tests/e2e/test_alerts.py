"""Alerts of `deploy/prometheus`, over scrapes of a running server and worker, as what they are about breaks.

Prometheus itself is not there: `support.promql` evaluates the expressions. The series have a clock of their own, by
which hours pass between two steps of a test. How long an alert has to be true (`for`) is not tested.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Final

import httpx
import pytest
import yaml

from eventsync.dev import mongod
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.promql import Series, metrics_of
from support.systems import Processes, tracked
from support.waiting import eventually, patience

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
RULES: Final[dict[str, str]] = {
    rule["alert"]: rule["expr"]
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
SHAPE: Final = "theaters"
DOCUMENTS: Final = f"/v1/collections/{SHAPE}/documents"


class Watched:
    """A server and a worker, and the series of their scrapes."""

    def __init__(self, server: str, worker: str) -> None:
        self.urls = {"eventsync-server": server, "eventsync-worker": worker}
        self.series = Series()
        self.now = time.time()

    async def scrape(self, later: float = 1.0) -> None:
        """Scrape both, by the clock of the series so much later than the last time."""
        self.now += later
        async with httpx.AsyncClient(timeout=patience(20)) as client:
            for job, url in self.urls.items():
                self.series.scrape(self.now, job, url, await self._text(client, url))

    async def _text(self, client: httpx.AsyncClient, url: str) -> str | None:
        try:
            answer = await client.get(f"{url}/metrics")
        except httpx.TransportError:
            return None
        return answer.text if answer.status_code == 200 else None

    def firing(self, *names: str) -> set[str]:
        """Return the alerts that are true, of `names` or of all."""
        return {name for name in names or RULES if self.series.is_true(RULES[name], self.now)}

    async def fires(self, *names: str) -> None:
        """Scrape until all of these are true."""

        async def scraped() -> bool:
            await self.scrape()
            return self.firing(*names) == set(names)

        await eventually(scraped, patience(30), pause=0.1)

    async def is_quiet(self) -> None:
        """Scrape until nothing is true."""

        async def scraped() -> bool:
            # What has happened before does not count any more after two hours.
            await self.scrape(7200)
            await self.scrape()
            # The jobs' own times are of the machine's clock, hours ago by now.
            return self.firing() <= {"EventsyncJobStalls"}

        await eventually(scraped, patience(30), pause=0.1)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    archive = tmp_path / "archive"
    archive.mkdir()
    return settings.model_copy(
        update={"worker_port": mongod.free_port(), "stale_after": 1.0, "archive_url": str(archive)}
    )


@pytest.fixture
async def watched(processes: Processes, settings: Settings) -> Watched:
    """A worker and a server with some traffic, in health."""
    processes.start("worker", "serve")
    await tracked(processes.url, settings.collections, seconds=30)
    found = Watched(processes.url, f"http://127.0.0.1:{settings.worker_port}")
    await write(processes.url, 3)
    await found.is_quiet()
    return found


async def write(url: str, count: int) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        for number in range(count):
            assert (await client.post(DOCUMENTS, json={"n": number})).status_code == 201


async def test_processes_that_end(watched: Watched, processes: Processes, settings: Settings) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "eventsync.json").read_text())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    named = {name for text in targets for name in metrics_of(text.replace("$__rate_interval", "1m"))}
    # Nothing was refused by rules here, because there are none.
    assert named - watched.series.names == {"eventsync_access_refused_total"}
    processes.signal(signal.SIGTERM, "worker")
    await processes.ended("worker", seconds=patience(20))
    await watched.fires("EventsyncTargetDown", "EventsyncNoLeader", "EventsyncChangesWait")
    processes.start("worker")
    await watched.is_quiet()
    processes.kill("serve")
    await watched.scrape()
    [down] = watched.series.value(RULES["EventsyncTargetDown"], watched.now)
    assert ("job", "eventsync-server") in down


async def test_logs_that_begin_and_are_repaired(watched: Watched, client: Client, settings: Settings) -> None:
    database = client[settings.database]
    await database["other"].insert_one({"_id": 1})
    # All documents are replaced, without a change of any.
    await database["other"].rename(SHAPE, dropTarget=True)
    await watched.fires("EventsyncRepair")
    assert "EventsyncNewLog" not in watched.firing()
    await Stores.of(client, settings).logs.request_reset("the test asks for it")
    await watched.fires("EventsyncNewLog")
    [labels] = watched.series.value(RULES["EventsyncNewLog"], watched.now)
    assert dict(labels) == {"reason": "requested"}
