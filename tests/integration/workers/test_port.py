"""The port of a worker: what it answers, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventsync.errors import ConfigurationError
from eventsync.metrics.catalogue import ALL, BUILD_INFO, LOOP_LAG, PROCESS
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync_workers.monitoring import door
from eventsync_workers.monitoring.figures import WorkerFigures
from eventsync_workers.monitoring.port import _MAX_CONNECTIONS, WorkerPort
from eventsync_workers.worker import Worker
from support.replay import began
from support.ruled import apply_rules
from support.waiting import eventually, patience

OUTSIDE = "0.0.0.0"


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, WorkerFigures]]:
    """A worker in this process with its port, and a client of that."""
    stop, figures = asyncio.Event(), WorkerFigures()
    port = WorkerPort(settings.model_copy(update={"worker_port": 0}), figures)

    def use(stores: Stores | None) -> None:
        port.door.stores = stores

    async with port.running(), asyncio.TaskGroup() as group:
        running = group.create_task(Worker(settings, stop, figures, use).run())
        try:
            url = f"http://127.0.0.1:{port.port}"
            async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
                yield client, figures
        finally:
            stop.set()
            await running


async def samples(client: httpx.AsyncClient, **headers: str) -> dict[str, float]:
    answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found["|".join((sample.name, *sample.labels.values()))] = sample.value
    return found


async def leads(client: httpx.AsyncClient) -> bool:
    answer = await client.get("/readyz")
    return answer.status_code == 200 and bool(answer.json() == {"status": "ready", "state": "leading"})


async def test_every_metric_of_a_worker_is_there_and_counts(settings: Settings, stores: Stores) -> None:
    settings = settings.model_copy(update={"collections": ("docs",)})
    async with working(settings) as (client, _):
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        await eventually(lambda: leads(client), patience(20))
        await began(stores, "docs")
        await stores.data["docs"].insert_many([{"_id": number} for number in range(50)])

        async def counted() -> bool:
            return (await samples(client))["eventsync_worker_events_total"] == 50

        await eventually(counted, patience(20))

        async def stored() -> bool:
            return (await samples(client))["eventsync_worker_snapshots_total"] >= 1

        await eventually(stored, patience(30))
        found = await samples(client)
        text = (await client.get("/metrics")).text
    declared = {name for name in ALL if name.startswith("eventsync_worker_")}
    declared |= {BUILD_INFO.name, LOOP_LAG.name, *(metric.name for metric in PROCESS)}
    named = {f"{one.name}_total" if one.type == "counter" else one.name for one in text_string_to_metric_families(text)}
    assert named == declared
    assert found["eventsync_worker_leader"] == found["eventsync_worker_mongodb_up"] == 1
    assert found["eventsync_worker_logs_begun_total|first"] == 1
    assert found["eventsync_worker_repairs_total|history"] == 0
    assert 1 <= found["eventsync_worker_append_seconds_count"] <= 50
    assert found["eventsync_worker_lag_events"] == found["eventsync_worker_lag_seconds"] == 0
    assert found["eventsync_worker_job_runs_total|snapshotting|ok"] >= 1


async def test_a_second_worker_stands_by(settings: Settings) -> None:
    async with working(settings) as (one, _):
        await eventually(lambda: leads(one), patience(20))
        async with working(settings) as (other, figures):
            await eventually(lambda: figures.state == "standby", patience(20))
            assert (await other.get("/readyz")).json() == {"status": "ready", "state": "standby"}
            await eventually(lambda: _is_open(other), patience(20))
            assert (await samples(other))["eventsync_worker_leader"] == 0


async def _is_open(client: httpx.AsyncClient) -> bool:
    return (await client.get("/metrics")).status_code == 200


async def test_a_worker_without_mongodb_is_alive_and_not_ready(settings: Settings) -> None:
    away = settings.model_copy(update={"mongodb_uri": "mongodb://127.0.0.1:1/?replicaSet=rs0", "mongodb_timeout": 0.5})
    async with working(away) as (client, _):
        assert (await client.get("/healthz")).status_code == 200
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "not_ready", "state": "waiting"})
        # Rules may be in force, so nobody is shown anything yet.
        assert (await client.get("/metrics")).status_code == 503


async def test_port_answers_nothing_else(settings: Settings) -> None:
    async with working(settings) as (client, _):
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/healthz")).status_code == 405
        assert (await client.get("/healthz", headers={"Origin": "https://a.example"})).status_code == 403
        head = await client.head("/healthz")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "15")
        for sent in (b"nonsense\r\n\r\n", b"GET /healthz\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
            writer.write(sent)
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert await reader.read() == b"", "a head without a bound gets no answer"
        writer.close()


async def test_a_port_in_use_is_a_configuration_error(settings: Settings) -> None:
    async with working(settings) as (client, figures):
        taken = settings.model_copy(update={"worker_port": client.base_url.port})
        with pytest.raises(ConfigurationError, match="the worker can't listen on 127"):
            async with WorkerPort(taken, figures).running():
                pass


@pytest.fixture
def fresh_rules(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Rules and keys are read again at each request."""
    monkeypatch.setattr(door, "_PERIOD", 0.0)
    return lambda: None


@pytest.mark.usefixtures("fresh_rules")
async def test_with_rules_only_the_key_of_an_operator_opens(settings: Settings, stores: Stores, tmp_path: Path) -> None:
    async with working(settings) as (client, _):
        await eventually(lambda: leads(client), patience(20))
        assert (await client.get("/metrics")).status_code == 200
        await apply_rules(stores, tmp_path)
        made = [
            await stores.credentials.keys.create("scraper", roles=frozenset(roles), claims={"sub": "x"}, expires=None)
            for roles in ({"operator"}, {"user"})
        ]
        (operator, key), (_, other) = made

        async def status(credential: str | None) -> int:
            headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
            return (await client.get("/metrics", headers=headers)).status_code

        assert await status(None) == 401
        assert await status("esk_abc_def") == 401
        assert await status(key[:-1] + ("a" if key[-1] != "a" else "b")) == 401
        assert await status(other) == 403
        assert await status(key) == 200
        await stores.credentials.keys.revoke(operator.id)
        assert await status(key) == 401
        assert (await client.get("/healthz")).status_code == (await client.get("/readyz")).status_code == 200


async def test_without_rules_only_this_machine_is_answered(settings: Settings) -> None:
    async with working(settings.model_copy(update={"worker_host": OUTSIDE})) as (client, _):
        await eventually(lambda: leads(client), patience(20))
        assert (await client.get("/metrics")).status_code == 403
    open_to_all = settings.model_copy(update={"worker_host": OUTSIDE, "allow_unauthenticated": True})
    async with working(open_to_all) as (client, _):
        await eventually(lambda: leads(client), patience(20))
        assert (await client.get("/metrics")).status_code == 200


async def test_silent_connections_keep_no_probe_out() -> None:
    """Anybody who reaches the port can open them, and a supervisor ends a process that does not answer its probes."""
    port = WorkerPort(Settings(worker_port=0), WorkerFigures())
    async with port.running(), AsyncExitStack() as stack:
        url = f"http://127.0.0.1:{port.port}"
        silent = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(_MAX_CONNECTIONS)]
        for _, writer in silent:
            stack.callback(writer.close)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=patience(5)))
        for _ in range(3):
            assert (await client.get("/healthz")).status_code == 200
        gone = [reader for reader, _ in silent if reader.at_eof() or reader.exception()]
        assert 0 < len(gone) <= 3, "one for each that came"
