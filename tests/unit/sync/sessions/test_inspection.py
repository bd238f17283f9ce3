"""Inspection of one session: what it notes, and how much of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.access.redaction import Redaction
from eventsync.domain.ids import IdText
from eventsync.domain.plan import Answer, Backlog, CollectionSize, Plan, ResetReason, ServableRange, catch_up
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.protocol import Ping, Subscribe
from eventsync.domain.shapes import Shape
from eventsync.sync.live.fan_out import Channel, DirectWriter, Publication
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window
from eventsync.sync.sessions.inspection import NOTES, Inspection, short_text, why
from eventsync.sync.sessions.session import Session
from eventsync.sync.sessions.subscription import Extent, OutboundMessage, PlanDecision
from support.logs_by_hand import event, seen_shape

LOG = LogId("aaaaaaaa")
ORDERS = Shape("orders")


class Observed:
    """A session that follows nothing."""

    def __init__(self) -> None:
        self.observer: Inspection | None = None
        self.vector: dict[Shape, Position] = {}
        self.subscriptions: list[Any] = []

    def observe(self, observer: Inspection | None) -> None:
        self.observer = observer

    def decisions(self, _: Shape) -> tuple[PlanDecision, ...]:
        return tuple(decision for each in self.subscriptions for decision in each.decisions)


@pytest.fixture
def session() -> Observed:
    return Observed()


@pytest.fixture
def inspection(session: Observed) -> Inspection:
    made = Inspection(cast("Session", session), Window(1_000_000, PageLimit(1000, 1_000_000)))
    made.begin()
    return made


def at(seq: int) -> Position:
    return Position(LOG, Seq(seq))


def message(kind: str = "events", events: int = 1) -> OutboundMessage:
    return OutboundMessage(kind, b"12", b"345", extent=Extent(ORDERS, at(1), at(2), events))


async def test_messages_and_requests_are_noted_in_order(inspection: Inspection) -> None:
    inspection.sent(message(events=3))
    inspection.received(Ping())
    inspection.received(Subscribe(ORDERS, None))
    found = await inspection.tree()
    first, second, third = found["frames"]
    assert (first["kind"], first["bytes"], first["events"], first["from"], first["to"]) == (
        "events", 5, 3, "aaaaaaaa:1", "aaaaaaaa:2",
    )  # fmt: skip
    assert (second["kind"], second["direction"], second["bytes"]) == ("ping", "in", None)
    assert third["shape"] == "orders"
    assert [frame["n"] for frame in found["frames"]] == [1, 2, 3]
    assert (await inspection.tree(after=2))["frames"] == [third]


async def test_direct_writes_are_noted_once_the_connection_has_taken_them(inspection: Inspection) -> None:
    taken: list[bytes] = []
    accepts = True

    def write(data: bytes) -> bool:
        if accepts:
            taken.append(data)
        return accepts

    writer = inspection.observed(DirectWriter(lambda publication: publication.data.upper(), write))
    data = writer.encode(Publication(ORDERS, b"abc", at(5), Seq(4), 1))
    assert writer.write(data)
    accepts = False
    assert not writer.write(data)
    assert taken == [b"ABC"]
    (frame,) = (await inspection.tree())["frames"]
    assert (frame["from"], frame["to"], frame["direct"]) == ("aaaaaaaa:4", "aaaaaaaa:5", True)


async def test_fast_messages_are_counted_and_left_out(inspection: Inspection) -> None:
    for _ in range(1000):
        inspection.sent(message(events=2))
    found = await inspection.tree()
    noted = len(found["frames"])
    assert 0 < noted < 1000
    assert found["left_out"] == {"messages": 1000 - noted, "events": 2 * (1000 - noted), "bytes": 5 * (1000 - noted)}


async def test_slow_inspector_is_told_what_it_has_missed(
    inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "_bucket", SimpleNamespace(take=lambda: True))
    for _ in range(NOTES + 50):
        inspection.sent(message())
    found = await inspection.tree(after=10)
    assert (len(found["frames"]), found["missed"], found["next"]) == (NOTES, 40, NOTES + 50)
    assert (await inspection.tree(after=NOTES + 49))["missed"] == 0
    # A number of an earlier inspection.
    assert len((await inspection.tree(after=10_000))["frames"]) == NOTES


async def test_plans_are_noted_before_the_message_that_they_led_to(inspection: Inspection, session: Observed) -> None:
    session.subscriptions = [SimpleNamespace(shape=ORDERS, decisions=())]
    chosen = PlanDecision(Plan(Answer.SNAPSHOT, 0.0), None, frozenset(), False, 5.0)
    session.subscriptions[0].decisions = (chosen,)
    inspection.sent(message("snapshot"))
    inspection.sent(message("snapshot"))
    frames = (await inspection.tree())["frames"]
    assert [frame["kind"] for frame in frames] == ["plan", "snapshot", "snapshot"]
    assert frames[0]["why"]["reason"] == "no_position"


async def test_ended_session_keeps_what_it_had(inspection: Inspection, session: Observed) -> None:
    session.subscriptions = [SimpleNamespace(shape=ORDERS, decisions=())]
    inspection.close()
    session.subscriptions = []
    found = await inspection.tree()
    assert session.observer is None
    assert (found["state"], [each["shape"] for each in found["shapes"]]) == ("ended", ["orders"])


def test_names_of_shapes_are_cut_off() -> None:
    assert len(short_text(str(Shape("x" * 250, IdText("y" * 1000))))) == 257


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (PlanDecision(Plan(Answer.SNAPSHOT, 0.0), None, frozenset(), False, 0.0), ("no_position", None)),
        (PlanDecision(Plan(Answer.EVENTS, 0.0), at(5), frozenset(), True, 0.0), ("in_window", "window")),
        (
            PlanDecision(Plan(Answer.SNAPSHOT, 0.0, ResetReason.FUTURE), at(5), frozenset(), False, 0.0),
            ("reset", None),
        ),
    ],
)
def test_plans_without_a_choice_say_why(decision: PlanDecision, expected: tuple[str, str | None]) -> None:
    found = why(decision)
    assert (found["reason"], found["source"]) == expected
    assert "costs" not in found


@pytest.mark.parametrize(("archived_up_to", "source"), [(100, "hot"), (101, "archive")])
def test_chosen_plan_has_the_costs_of_all_answers(archived_up_to: int, source: str) -> None:
    servable = ServableRange(LOG, Seq(1000), archived_up_to=Seq(archived_up_to))
    backlog, size = Backlog(900, 300, 60_000, 300), CollectionSize(100_000, 90_000_000)
    plan = catch_up(at(100), servable, backlog, size, None)
    found = why(PlanDecision(plan, at(100), frozenset(), False, 1.0))
    assert (found["answer"], found["reason"], found["source"]) == ("events", "cheapest", source)
    assert found["behind"] == {"log_events": 900, "events": 300, "bytes": 60_000, "documents": 300}
    assert found["costs"]["events"] < found["costs"]["squashed"] < found["costs"]["snapshot"]


def test_answers_that_have_failed_are_no_choice() -> None:
    size = CollectionSize(1, 1)
    avoided = frozenset({Answer.SNAPSHOT, Answer.SQUASHED})
    plan = catch_up(at(450), ServableRange(LOG, Seq(1000)), Backlog(1, 1, 1, 1), size, None, avoided)
    assert why(PlanDecision(plan, at(450), avoided, False, 1.0))["reason"] == "others_failed"


def test_only_exact_answer_is_no_choice() -> None:
    servable = ServableRange(LOG, Seq(1000), horizon=Seq(500), squash_floor=Seq(500))
    plan = catch_up(at(450), servable, Backlog(1, 1, 1, 1), CollectionSize(1, 1), None)
    assert plan.compared is not None
    assert plan.compared.exact == {Answer.SNAPSHOT}
    assert why(PlanDecision(replace(plan, reset=None), at(450), frozenset(), False, 1.0))["reason"] == "only_exact"


def test_channel_forgets_the_encoder_of_an_inspection() -> None:
    channel = Channel(ORDERS, Seq(0))
    encoded: list[str] = []

    def writer(name: str) -> DirectWriter:
        def encode(publication: Publication) -> bytes:
            encoded.append(name)
            return publication.data

        return DirectWriter(encode, lambda _: True)

    subscriber = channel.subscribe(LightEvent())
    subscriber.attach(at(0), writer("inspected"))
    channel.publish(b"a", at(1), Seq(0), 1)
    subscriber.detach()
    channel.tidy()
    subscriber.attach(at(1), writer("plain"))
    channel.publish(b"b", at(2), Seq(1), 1)
    assert encoded == ["inspected", "plain"]
    subscriber.detach()
    channel.unsubscribe(subscriber)
    assert channel.attached == {}


async def test_notes_of_old_messages_are_read_with_pauses(inspection: Inspection) -> None:
    """Each goes back from the head of the window to the events of its message."""
    shape = seen_shape("orders", redaction=Redaction([("secret",)]))
    inspection.window.start(LOG, Seq(0))
    inspection.window.extend(event(seq, "users") for seq in range(1, 1500))
    for _ in range(20):
        inspection.sent(OutboundMessage("events", b"", b"", extent=Extent(shape, at(1), at(2), 1)))
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        loop.call_soon(pause)

    loop = asyncio.get_running_loop()
    loop.call_soon(pause)
    await inspection.tree()
    assert pauses >= 10
