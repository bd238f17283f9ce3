"""Traces through whole processes: a worker and two servers, which export to a collector."""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.dev import mongod
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.clients import following
from support.collector import Collector, ReceivedSpan, collecting
from support.systems import Processes, tracked
from support.waiting import eventually, patience, within

SHAPE = "theaters"
SERVER, CLIENT, PRODUCER, CONSUMER, INTERNAL = 2, 3, 4, 5, 1
"""Kinds of spans, as they are exported."""

NAMES = {f"{what} {SHAPE}" for what in ("commit", "sequence", "convert", "append", "deliver")} | {
    "PATCH /v1/collections/{collection}/documents/{id}"
}


class TracedProcesses(Processes):
    """Processes that export to a collector, each as a service of its own name, and servers on a port each."""

    def __init__(self, settings: Settings, directory: Path, collector: str, **variables: str) -> None:
        super().__init__(settings.model_copy(update={"tracing": True}), directory)
        self._variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_BSP_SCHEDULE_DELAY": "50"} | variables
        self.second = f"http://127.0.0.1:{(port := mongod.free_port())}"
        self._second_port = str(port)

    def _environment(self, name: str) -> dict[str, str]:
        return super()._environment(name) | self._variables | {"OTEL_SERVICE_NAME": name}

    async def start_all(self) -> None:
        """Start a worker and two servers, and wait until both serve and have the first event of each collection.

        The first event names what is active from there. A server that did not know it yet reads the log itself, and has
        no span of what it finds.
        """
        self.start("worker", "serve")
        self.start("serve2", options=("--port", self._second_port))
        for url in (self.url, self.second):
            await tracked(url, self._settings.collections)
        await changed(self.url, f"/v1/collections/{SHAPE}/documents/first", {}, {}, "PUT")
        for url in (self.url, self.second):
            await eventually(partial(self._has_an_event, url), 20)

    async def _has_an_event(self, url: str) -> bool:
        async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
            ready = await http.get("/readyz")
        return ready.status_code == 200 and not ready.json()["position"].endswith(":0")


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as found:
        yield found


@pytest.fixture
def traced(settings: Settings, tmp_path: Path, collector: Collector) -> Iterator[TracedProcesses]:
    found = TracedProcesses(settings, tmp_path, collector.url)
    try:
        yield found
    finally:
        collector.answers.set()
        found.stop()


def new_trace(*, sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """Return a trace id, a span id, and the headers of a request that belongs to them."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return trace, span, {"traceparent": f"00-{trace}-{span}-{'01' if sampled else '00'}"}


def one(spans: list[ReceivedSpan], name: str, service: str) -> ReceivedSpan:
    [found] = [span for span in spans if span.name == name and span.service == service]
    return found


async def changed(url: str, path: str, body: dict[str, Any], headers: dict[str, str], method: str = "PATCH") -> Any:
    media = {"PATCH": "application/merge-patch+json"}.get(method, "application/json")
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        answer = await client.request(method, path, json=body, headers=headers | {"content-type": media})
    return answer.raise_for_status().json() if answer.content else None


@pytest.mark.slow
async def test_a_write_is_one_trace_until_both_servers_have_delivered_it(
    traced: TracedProcesses, collector: Collector, client: Client, settings: Settings
) -> None:
    await client[settings.database][SHAPE].insert_one({"_id": "a", "n": 0})
    await traced.start_all()
    trace, caller, headers = new_trace()
    async with following(traced.url, SHAPE, "websocket") as first, following(traced.second, SHAPE, "sse") as second:
        for follower in (first, second):
            await follower.has("a")
        await changed(traced.url, f"/v1/collections/{SHAPE}/documents/a", {"n": 1}, headers)
        await collector.until(lambda: len(collector.of(trace)) == 7)
        bodies = [event for follower in (first, second) for event in follower.replica.documents.values()]
    spans = collector.of(trace)
    request = one(spans, "PATCH /v1/collections/{collection}/documents/{id}", "serve")
    assert (request.parent, request.kind, request.failed) == (caller, SERVER, False)
    assert request.attributes["http.response.status_code"] == 200
    assert "url.path" not in request.attributes, "ids are not for everybody who reads traces"
    commit = one(spans, f"commit {SHAPE}", "serve")
    assert (commit.parent, commit.kind) == (request.id, CLIENT)
    assert commit.attributes["db.namespace"] == settings.database
    sequence = one(spans, f"sequence {SHAPE}", "worker")
    assert (sequence.parent, sequence.kind) == (request.id, CONSUMER)
    convert = one(spans, f"convert {SHAPE}", "worker")
    append = one(spans, f"append {SHAPE}", "worker")
    assert (convert.parent, convert.kind) == (sequence.id, INTERNAL)
    assert (append.parent, append.kind) == (sequence.id, CLIENT)
    assert sequence.begin == convert.begin <= convert.end <= append.begin <= append.end <= sequence.end
    deliveries = [one(spans, f"deliver {SHAPE}", service) for service in ("serve", "serve2")]
    for delivery in deliveries:
        assert (delivery.parent, delivery.kind) == (sequence.id, PRODUCER)
        assert delivery.attributes["messaging.message.id"] == sequence.attributes["eventsync.position"]
        reached = delivery.attributes["eventsync.clients.written"] + delivery.attributes["eventsync.clients.woken"]
        assert reached == 1, "one follower on each server"
    assert request.begin <= commit.begin <= commit.end <= request.end
    assert all(trace not in str(body) for body in bodies), "clients see nothing of traces"
    row = await client[settings.log_db]["events"].find_one({"i": "a", "p": {"$exists": True}})
    assert row is not None
    assert row["p"] == f"00-{trace}-{sequence.id}-01"
    assert trace not in row["b"], "nor does the body that goes to them"
    # The stamp stays until the next write, and is no trace of a later change from elsewhere.
    await client[settings.database][SHAPE].update_one({"_id": "a"}, {"$set": {"n": 2}})
    # A caller that does not sample leaves nothing behind.
    other, _, unsampled = new_trace(sampled=False)
    await changed(traced.second, f"/v1/collections/{SHAPE}/documents/a", {"n": 3}, unsampled)
    last, _, headers = new_trace()
    await changed(traced.second, f"/v1/collections/{SHAPE}/documents/a", {}, headers, "DELETE")
    await collector.until(lambda: len(collector.of(last)) == 7)
    assert len(collector.of(trace)) == 7
    assert collector.of(other) == []
    assert one(collector.of(last), f"commit {SHAPE}", "serve2").attributes["db.operation.name"] == "transaction"


@pytest.mark.slow
async def test_writes_that_share_a_command_are_linked(
    traced: TracedProcesses, collector: Collector, client: Client, settings: Settings
) -> None:
    await traced.start_all()
    trace, _, headers = new_trace()
    count = 120
    operations = [{"method": "POST", "doc": {"_id": f"d{n}"}} for n in range(count)]
    path = f"/v1/collections/{SHAPE}/documents:batch"
    answer = await changed(traced.url, path, {"operations": operations}, headers, "POST")
    assert [result["status"] for result in answer["results"]] == [201] * count
    # The first hundred writes of a request carry its context: with theirs, the spans of one request are bounded.
    await collector.until(lambda: len(collector.of(trace)) == 1 + 6 * 100)
    for name in ("commit", "append"):
        spans = [span for span in collector.of(trace) if span.name == f"{name} {SHAPE}"]
        assert len(spans) == 100
        ids = {span.id for span in spans}
        shared = [span for span in spans if span.attributes.get("db.operation.batch.size", 1) > 1]
        linked = [span for span in shared if span.links]
        assert linked or name == "append", "a batch makes groups"
        assert {link for span in linked for link in span.links} <= ids
        assert all(span.id in _links(spans, link) for span in linked for link in span.links), "in both directions"


def _links(spans: list[ReceivedSpan], id: str) -> tuple[str, ...]:  # noqa: A002 - everybody calls it that
    return next(span.links for span in spans if span.id == id)


@pytest.mark.slow
async def test_replaced_server_processes_export_each_span_once(
    traced: TracedProcesses, collector: Collector, client: Client, settings: Settings
) -> None:
    await client[settings.database][SHAPE].insert_one({"_id": "a", "n": 0})
    traced.start("worker")
    traced.start("serve", options=("--workers", "2"))
    await tracked(traced.url, settings.collections)
    await traced.said("serve", " serves", times=2)
    before = await written_by_each(traced, collector)
    assert before == traced.children("serve")
    traced.signal(signal.SIGHUP, "serve")
    await traced.said("serve", "all server processes are replaced")
    after = await written_by_each(traced, collector)
    assert after == traced.children("serve")
    assert not before & after
    # The spans of an exporter that was left over would have come with these.
    ids = [span.id for span in collector.spans]
    assert len(ids) == len(set(ids))


async def written_by_each(traced: TracedProcesses, collector: Collector) -> set[int]:
    """Write through both server processes, and wait for the spans of each write. Return the ids of the processes."""
    pids: set[int] = set()
    async with within(30):
        while len(pids) < 2:
            # Each connection is accepted by either.
            async with httpx.AsyncClient(base_url=traced.url, timeout=patience(20)) as http:
                pid = int((await http.get("/v1/admin/overview")).json()["answered_by"].split(":")[1])
                trace, caller, headers = new_trace()
                media = {"content-type": "application/merge-patch+json"}
                path = f"/v1/collections/{SHAPE}/documents/a"
                answer = await http.patch(path, json={"n": trace}, headers=headers | media)
                answer.raise_for_status()
            if pid in pids:
                continue
            pids.add(pid)
            # A server that has just begun may have read the event from the log, and has no span of that.
            await collector.until(lambda: {span.name for span in collector.of(trace)} >= NAMES)  # noqa: B023 - awaited
            request = one(collector.of(trace), "PATCH /v1/collections/{collection}/documents/{id}", "serve")
            assert request.parent == caller
    return pids


@pytest.mark.slow
async def test_a_collector_that_does_not_answer_delays_nothing(
    settings: Settings, tmp_path: Path, collector: Collector, client: Client
) -> None:
    await client[settings.database][SHAPE].insert_one({"_id": "a", "n": 0})
    bounded = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"}
    processes = TracedProcesses(settings, tmp_path, collector.url, **bounded)
    try:
        collector.answers.clear()
        await processes.start_all()
        async with following(processes.second, SHAPE, "websocket") as follower:
            for n in range(1, 41):
                await changed(processes.url, f"/v1/collections/{SHAPE}/documents/a", {"n": n}, new_trace()[2])
            await client[settings.database][SHAPE].insert_one({"_id": "marker"})
            await follower.has("marker")
            assert follower.replica.documents["a"]["n"] == 40
        await collector.asked.wait()
        await processes.said("serve", "Queue full, dropping Span")
        assert collector.spans == []
        # It still does not answer: the ends of the processes do not wait for it.
        for name in ("serve", "serve2", "worker"):
            processes.signal(signal.SIGTERM, name)
        for name in ("serve", "serve2", "worker"):
            assert await processes.ended(name, seconds=patience(15)) == 0
    finally:
        collector.answers.set()
        processes.stop()
