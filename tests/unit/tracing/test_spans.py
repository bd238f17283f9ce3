"""Spans of requests, commits and events, by the SDK itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from opentelemetry.trace import StatusCode
from starlette.types import Receive, Scope, Send

from eventsync.domain.positions import LogId, Seq
from eventsync.logging import CONTEXT
from eventsync.nodestorage import Author
from eventsync.nodestorage.commits import committing
from eventsync.nodestorage.retry import Lost
from eventsync.server.observing import TEMPLATE, Observed, RequestFigures
from eventsync.tracing.process import carried, current
from eventsync.tracing.spans import WRITES
from eventsync_workers.sequencing.event_spans import EventSpans
from support.spans import SPAN, TRACE, TRACEPARENT, id_of, parent_of, traced_process

COLLECTION: Any = SimpleNamespace(name="orders", database=SimpleNamespace(name="shop"))


class App:
    """An application that answers the status that the path names, and keeps what its writes would carry."""

    def __init__(self) -> None:
        self.carried: list[str | None] = []
        self.ids: list[str] = []

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        scope[TEMPLATE] = "/{status}"
        context = CONTEXT.get()
        assert context is not None
        self.ids.append(context.request)
        self.carried += [carried() for _ in range(WRITES + 20)]
        await send({"type": "http.response.start", "status": int(scope["path"][1:]), "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def request(app: App, method: str, path: str, **headers: str) -> None:
    transport = httpx.ASGITransport(Observed(app, RequestFigures()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.request(method, path, headers=headers)


async def test_a_request_continues_the_trace_of_its_caller() -> None:
    app = App()
    with traced_process() as spans:
        await request(app, "PATCH", "/200?filter=secret", traceparent=TRACEPARENT)
    span = spans.one("PATCH /{status}")
    assert (f"{span.context.trace_id:032x}", parent_of(span)) == (TRACE, SPAN)
    assert app.ids == [TRACE], "the log names it so"
    assert set(app.carried[:WRITES]) == {f"00-{TRACE}-{id_of(span)}-01"}
    assert set(app.carried[WRITES:]) == {None}, "a batch of thousands is bounded"
    assert span.attributes is not None
    assert dict(span.attributes) == {
        "http.request.method": "PATCH",
        "http.route": "/{status}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
    } | {name: span.attributes[name] for name in ("server.address", "server.port") if name in span.attributes}
    assert "secret" not in str(span.to_json())
    assert carried() is None


async def test_a_request_without_a_caller_begins_a_trace_that_the_log_names() -> None:
    app = App()
    with traced_process() as spans:
        await request(app, "POST", "/503")
    span = spans.one("POST /{status}")
    assert span.parent is None
    assert app.ids == [f"{span.context.trace_id:032x}"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "503"


async def test_a_disabled_sdk_leaves_the_id_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    app = App()
    with traced_process() as spans:
        await request(app, "PATCH", "/200", traceparent=TRACEPARENT)
    assert spans.names() == []
    assert app.ids == [TRACE]


async def test_reads_and_unsampled_requests_leave_nothing() -> None:
    app = App()
    with traced_process() as spans:
        await request(app, "GET", "/200", traceparent=TRACEPARENT)
        await request(app, "PATCH", "/200", traceparent=TRACEPARENT[:-1] + "0")
    assert spans.names() == []
    assert set(app.carried) == {None}


def author(trace: str | None) -> Author:
    return Author("ann", "op", None, trace)


def test_commits_of_one_command_are_linked_and_have_their_own_outcomes() -> None:
    second, third = "11" * 8, "22" * 8
    authors = [author(f"00-{TRACE}-{span}-01") for span in (SPAN, second, third)]
    with traced_process() as spans, committing(COLLECTION, "bulkWrite", [*authors, author(None)]) as found:
        assert found is not None
        found.note([None, Lost(), ValueError("no"), None])
    ended = {parent_of(span): span for span in spans.all("commit orders")}
    assert [*ended] == [SPAN, second, third]
    first = ended[SPAN]
    assert first.attributes is not None
    assert first.attributes["db.operation.batch.size"] == 4
    assert [link.context.span_id for link in first.links] == [ended[name].context.span_id for name in (second, third)]
    for name in (second, third):
        assert [link.context.span_id for link in ended[name].links] == [first.context.span_id]
    assert [ended[name].status.status_code for name in ended] == [StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR]
    lost = ended[second].attributes
    assert lost is not None
    assert lost["eventsync.outcome"] == "lost_race"


def test_a_command_that_fails_fails_its_commits() -> None:
    with traced_process() as spans:
        with pytest.raises(ValueError, match="no"), committing(COLLECTION, "transaction", [author(TRACEPARENT)]):
            raise ValueError("no")
        assert spans.one("commit orders").status.status_code is StatusCode.ERROR
        with committing(COLLECTION, "bulkWrite", [author(None)]) as found:
            assert found is None
    with committing(COLLECTION, "bulkWrite", [author(TRACEPARENT)]) as found:
        assert found is None, "this process does not trace"


def begun() -> EventSpans:
    spans = EventSpans.of(LogId("k3f9ab2c"))
    assert spans is not None
    spans.converting()
    return spans


def test_events_that_are_appended_together_end_together() -> None:
    with traced_process() as ended:
        spans = begun()
        rows = [spans.converted(TRACEPARENT, "orders", Seq(seq)) for seq in (4, 5, 9)]
        with spans.appending(Seq(3), Seq(8)):
            assert ended.names() == ["convert orders"] * 3
        assert ended.names()[3:] == ["append orders"] * 2 + ["sequence orders"] * 2
        with spans.appending(Seq(9), Seq(9)):
            pass
        found = {span.attributes["eventsync.position"]: span for span in ended.all("sequence orders")}  # type: ignore[index]
        assert [f"00-{TRACE}-{id_of(found[f'k3f9ab2c:{seq}'])}-01" for seq in (4, 5, 9)] == rows
        assert {parent_of(span) for span in found.values()} == {SPAN}


def test_a_failed_insert_fails_its_events_and_what_is_given_up() -> None:
    with traced_process() as ended:
        spans = begun()
        for seq in (1, 2):
            spans.converted(TRACEPARENT, "orders", Seq(seq))
        with pytest.raises(ValueError, match="no"), spans.appending(Seq(1), Seq(1)):
            raise ValueError("no")
        spans.give_up()
        with spans.appending(Seq(1), Seq(2)):
            assert ended.names().count("sequence orders") == 2
        kinds = [span.attributes["error.type"] for span in ended.all("sequence orders")]  # type: ignore[index]
        assert kinds == ["ValueError", "given_up"]
        assert ended.names().count("append orders") == 1


@pytest.mark.parametrize("text", ["", "x" * 55, TRACEPARENT + "0", f"00-{'0' * 32}-{SPAN}-01", f"ff{TRACEPARENT[2:]}"])
def test_a_stamp_that_names_no_trace_begins_none(text: str) -> None:
    with traced_process() as ended:
        assert begun().converted(text, "orders", Seq(1)) is None
    assert ended.names() == []


def test_a_process_that_does_not_trace_has_no_spans() -> None:
    assert current() is None
    assert EventSpans.of(LogId("k3f9ab2c")) is None
