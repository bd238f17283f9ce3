"""Alerts of `deploy/prometheus`, over scrapes of a running server and worker, as what they are about breaks.

Prometheus itself is not there: `support.promql` evaluates the expressions. The series have a clock of their own, by
which hours pass between two steps of a test. So an alert is true for as long as it has to be (`for`) in a few scrapes.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from eventsync.dev import mongod
from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.clients import following
from support.failpoints import blocking, failing, hanging_inserts
from support.load import Overload
from support.promql import Series, metrics_of
from support.systems import Processes, head, tracked
from support.tcp_proxy import tcp_proxy
from support.waiting import eventually, patience, scaled, within

pytestmark = pytest.mark.slow

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
_RULES: Final = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
RULES: Final[dict[str, str]] = {rule["alert"]: rule["expr"] for rule in _RULES}
MINUTES: Final = {rule["alert"]: int(rule["for"].removesuffix("m")) for rule in _RULES if "for" in rule}
"""Minutes for which an alert has to be true."""
SHAPE: Final = "theaters"
DOCUMENTS: Final = f"/v1/collections/{SHAPE}/documents"
OUT_OF_DISK_SPACE: Final = 14031
BY_MONGODB: Final = {"server": "eventsync-(serve|feed)", "worker": "eventsync-(worker|lease)"}
"""The names of the connections of each to MongoDB."""


class Watched:
    """The processes `serve` and `worker`, and the series of their scrapes."""

    def __init__(self, processes: Processes, worker_port: int | None) -> None:
        self.processes = processes
        self.url = processes.url
        self.urls = {"eventsync-server": self.url, "eventsync-worker": f"http://127.0.0.1:{worker_port}"}
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

    async def keeps_firing(self, *names: str, by: Callable[[], Awaitable[None]] | None = None, every: int = 1) -> None:
        """Scrape after each minute, or `every` so many, until each has been true for as long as it has to be.

        Before each scrape, `by` causes it again.
        """
        for _ in range(0, max(MINUTES[name] for name in names), every):
            if by is not None:
                await by()
            await self.scrape(60 * every)
            assert self.firing(*names) == set(names)

    def value(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """Return the values of an alert by their labels, as of the last scrape."""
        return self.series.value(RULES[name], self.now)

    async def is_true(self, expression: str) -> None:
        """Scrape until an expression is true."""

        async def scraped() -> bool:
            await self.scrape()
            return self.series.is_true(expression, self.now)

        await eventually(scraped, patience(60), pause=0.1)

    async def write(self, count: int = 1) -> None:
        """Create documents."""
        async with httpx.AsyncClient(base_url=self.url, timeout=patience(20)) as client:
            for number in range(count):
                assert (await client.post(DOCUMENTS, json={"n": number})).status_code == 201

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


@asynccontextmanager
async def watching(settings: Settings, directory: Path) -> AsyncIterator[Watched]:
    """A worker and a server with some traffic, in health when the block begins."""
    processes = Processes(settings, directory)
    try:
        processes.start("worker", "serve")
        await tracked(processes.url, settings.collections, seconds=30)
        found = Watched(processes, settings.worker_port)
        await found.write(3)
        await found.is_quiet()
        yield found
    finally:
        # A proxy in front of MongoDB runs in this loop, and they need it until their end.
        await asyncio.to_thread(processes.stop)


@pytest.fixture
async def watched(settings: Settings, tmp_path: Path) -> AsyncIterator[Watched]:
    async with watching(settings, tmp_path) as found:
        yield found


async def test_processes_that_end(watched: Watched) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "eventsync.json").read_text())
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    named = {name for text in targets for name in metrics_of(text.replace("$__rate_interval", "1m"))}
    # Nothing was refused by rules here, because there are none.
    assert named - watched.series.names == {"eventsync_access_refused_total"}
    watched.processes.signal(signal.SIGTERM, "worker")
    await watched.processes.ended("worker", seconds=patience(20))
    await watched.fires("EventsyncTargetDown", "EventsyncNoLeader", "EventsyncChangesWait")
    await watched.keeps_firing("EventsyncTargetDown", "EventsyncNoLeader", "EventsyncChangesWait")
    watched.processes.start("worker")
    await watched.is_quiet()
    watched.processes.kill("serve")
    await watched.scrape()
    [down] = watched.value("EventsyncTargetDown")
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
    [labels] = watched.value("EventsyncNewLog")
    assert dict(labels) == {"reason": "requested"}


@pytest.mark.parametrize("cut_off", ["server", "worker"])
async def test_processes_that_are_cut_off_from_mongodb(settings: Settings, tmp_path: Path, cut_off: str) -> None:
    if not (port := urlsplit(settings.mongodb_uri or "").port):
        pytest.skip("this MongoDB is no single node")
    async with tcp_proxy(f"mongodb://127.0.0.1:{port}") as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        changed = {"mongodb_uri": uri, "mongodb_timeout": scaled(2.0)}
        async with watching(settings.model_copy(update=changed), tmp_path) as watched:
            proxy.hold(BY_MONGODB[cut_off])
            if cut_off == "server":
                await fail_to_write(watched)
                await watched.fires("EventsyncErrors")
                await watched.fires("EventsyncFeedDown", "EventsyncMongodbDown")
                await watched.keeps_firing(
                    "EventsyncErrors", "EventsyncFeedDown", "EventsyncMongodbDown", by=lambda: fail_to_write(watched, 1)
                )
            else:
                await watched.fires("EventsyncMongodbDown")
                await watched.keeps_firing("EventsyncMongodbDown")
                assert not watched.firing("EventsyncFeedDown", "EventsyncErrors")
            proxy.release()
            await watched.is_quiet()


async def fail_to_write(watched: Watched, times: int = 2) -> None:
    """Have writes fail before and after a scrape: the first of a kind is not seen as an increase."""
    async with httpx.AsyncClient(base_url=watched.url, timeout=patience(60)) as client:
        for _ in range(times):
            assert (await client.post(DOCUMENTS, json={})).status_code == 503
            await watched.scrape()


async def test_archives_that_are_gone(watched: Watched, settings: Settings) -> None:
    archive, away = Path(settings.archive_url), Path(settings.archive_url).with_name("away")
    await asyncio.to_thread(archive.rename, away)
    # The archiver is to record it beside the segments.
    await watched.write()
    await watched.fires("EventsyncArchiveDown", "EventsyncJobFails")
    await watched.keeps_firing("EventsyncArchiveDown")
    assert {dict(labels)["name"] for labels in watched.value("EventsyncJobFails")} >= {"archiving"}
    await watched.scrape()
    succeeded = "max by (name) (eventsync_worker_job_last_success_timestamp_seconds)"

    async def another_has_succeeded_later() -> bool:
        await watched.scrape()
        ends = {dict(labels)["name"]: end for labels, end in watched.series.value(succeeded, watched.now).items()}
        return ends["snapshotting"] > ends["archiving"] + 1

    await eventually(another_has_succeeded_later, patience(30), pause=0.1)
    # An hour after the archiver's last success, and less than an hour after that of the snapshotter.
    ends = {dict(labels)["name"]: end for labels, end in watched.series.value(succeeded, watched.now).items()}
    an_hour_later = ends["archiving"] + 3600.5
    stalled = watched.series.value(RULES["EventsyncJobStalls"], an_hour_later)
    assert {dict(labels)["name"] for labels in stalled} & {"archiving", "snapshotting"} == {"archiving"}
    await asyncio.to_thread(away.rename, archive)
    await watched.is_quiet()
    assert not watched.series.is_true(RULES["EventsyncJobStalls"], an_hour_later)


async def test_limits_that_refuse(client: Client, settings: Settings, tmp_path: Path) -> None:
    changed = {"collections": (SHAPE, "docs"), "write_queue_delay": scaled(0.3), "mongodb_pool_size": 5}
    async with watching(settings.model_copy(update=changed), tmp_path) as watched:
        overload = Overload(watched.url)
        commands = ("find", "findAndModify", "insert", "update")

        async def refuse() -> None:
            await overload.run(writers=100, accepted=1, refused=10)

        async with blocking(client, commands, round(scaled(100)), app=app_name(settings, "serve")):
            await refuse()
            await watched.fires("EventsyncRefuses")
            await watched.keeps_firing("EventsyncRefuses", by=refuse, every=4)
        assert [dict(labels) for labels in watched.value("EventsyncRefuses")] == [{"for": "writes"}]


async def test_workers_that_append_late(client: Client, settings: Settings, tmp_path: Path) -> None:
    patient = settings.model_copy(update={"mongodb_timeout": 300.0})
    async with (
        watching(patient, tmp_path) as watched,
        following(watched.url, SHAPE, "websocket") as follower,
    ):
        await follower.reached(await head(watched.url))
        lag = "max(eventsync_worker_lag_seconds) > "

        async def hang(seconds: str) -> None:
            async with hanging_inserts(client, f"{settings.log_db}.events"):
                await watched.write()
                await watched.is_true(lag + seconds)
            await follower.reached(await head(watched.url))

        async with hanging_inserts(client, f"{settings.log_db}.events"):
            await watched.write()
            # A lag is a time: this takes as many seconds as the alert names.
            await watched.fires("EventsyncWorkerLag")
            await watched.keeps_firing("EventsyncWorkerLag")
            assert not watched.firing("EventsyncSlowDelivery")
        await watched.fires("EventsyncSlowDelivery")
        assert not watched.firing("EventsyncWorkerLag")
        await watched.keeps_firing("EventsyncSlowDelivery", by=lambda: hang("1.5"))


async def test_workers_that_fail_to_append(watched: Watched, client: Client, settings: Settings) -> None:
    lag, terms = "max(eventsync_worker_lag_seconds)", "max(eventsync_worker_terms_total)"

    def now(expression: str) -> float:
        return next(iter(watched.series.value(expression, watched.now).values()))

    events, worker = f"{settings.log_db}.events", app_name(settings, "worker")
    async with failing(client, "insert", OUT_OF_DISK_SPACE, app=worker, times=None, of=events):
        await watched.write()
        await watched.is_true(f"{lag} > 0")
        found, enough = [now(lag)], now(terms) + 4
        async with within(60):
            while now(terms) < enough:
                await watched.scrape()
                found.append(now(lag))
        # Nor is it 0 while the worker waits between two attempts: it grows until the alert fires.
        assert found == sorted(found)
        assert now("max(eventsync_worker_lag_events)") == 1
    await watched.is_true(f"{lag} == 0")
    await watched.is_quiet()


async def test_jobs_that_have_never_succeeded(watched: Watched, client: Client, settings: Settings) -> None:
    watched.processes.signal(signal.SIGTERM, "worker")
    await watched.processes.ended("worker", seconds=patience(20))
    segments, worker = f"{settings.log_db}.segments", app_name(settings, "worker")
    async with failing(client, "find", OUT_OF_DISK_SPACE, app=worker, times=None, of=segments):
        watched.processes.start("worker")
        await watched.is_true('sum(eventsync_worker_job_runs_total{name="archiving",result="failed"}) > 0')
        succeeded = 'eventsync_worker_job_last_success_timestamp_seconds{name="archiving"}'
        assert not watched.series.value(succeeded, watched.now)
        first_run = 'eventsync_worker_job_first_run_timestamp_seconds{name="archiving"}'
        [began] = watched.series.value(first_run, watched.now).values()
        for later, stalls in ((3595, False), (3605, True), (3605 + 60 * MINUTES["EventsyncJobStalls"], True)):
            stalled = watched.series.value(RULES["EventsyncJobStalls"], began + later)
            assert ("archiving" in {dict(labels)["name"] for labels in stalled}) is stalls


async def test_processes_that_get_no_processor(watched: Watched) -> None:
    async def stop() -> None:
        async with httpx.AsyncClient(base_url=watched.url, timeout=0.8) as client:
            watched.processes.signal(signal.SIGSTOP, "serve")
            with pytest.raises(httpx.TimeoutException):
                await client.get("/healthz")
            watched.processes.signal(signal.SIGCONT, "serve")

    await stop()
    await watched.fires("EventsyncLoopBlocked")
    await watched.keeps_firing("EventsyncLoopBlocked", by=stop)
    # A busy machine may hold up the worker, too.
    assert {"instance": watched.url} in [dict(late) for late in watched.value("EventsyncLoopBlocked")]


async def test_open_files_that_run_out(watched: Watched) -> None:
    files = 200
    resource.prlimit(watched.processes.pid("serve"), resource.RLIMIT_NOFILE, (files, files))
    async with AsyncExitStack() as stack, within(30):
        while not watched.firing("EventsyncFilesRunOut"):
            for _ in range(5):
                _, writer = await asyncio.open_connection("127.0.0.1", watched.processes.port)
                stack.callback(writer.close)
            await watched.scrape()
        await watched.keeps_firing("EventsyncFilesRunOut")
    [full] = watched.value("EventsyncFilesRunOut")
    assert ("job", "eventsync-server") in full
