"""Lag of a server's clients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from eventsync.access.access import Access
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.clients import lag as module
from eventsync.sync.clients.lag import ClientLag, ServerLag, server_lag
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window

LOG, OTHER = LogId("aaaa"), LogId("bbbb")
ORDERS, USERS = Shape("orders"), Shape("users")


def window() -> Window:
    """Events 11 to 20; the even ones are of `orders`, the odd ones of `users`, but for 20."""
    made = Window(10_000_000, PageLimit(100, 100_000))
    made.start(LOG, Seq(10))
    names = {seq: "users" if seq % 2 or seq == 20 else "orders" for seq in range(11, 21)}
    made.extend(StoredEvent(Seq(seq), name, IdText("1"), b"{}") for seq, name in names.items())
    return made


def test_server_lag_without_clients_is_zero() -> None:
    assert server_lag(window(), []) == ServerLag(LOG, None, 0)
    assert server_lag(window(), [{ORDERS: Position(OTHER, Seq(3))}]) == ServerLag(LOG, None, 0)


def test_server_lag_is_that_of_the_oldest_client() -> None:
    vectors = [{ORDERS: Position(LOG, Seq(18))}, {USERS: Position(LOG, Seq(13)), ORDERS: Position(LOG, Seq(16))}]
    assert server_lag(window(), vectors) == ServerLag(LOG, Seq(13), 7)
    assert server_lag(window(), [{ORDERS: Position(LOG, Seq(4))}]) == ServerLag(LOG, Seq(4), 16)


def test_server_lag_includes_clients_that_are_written_to_directly() -> None:
    assert server_lag(window(), [], is_any_current=True) == ServerLag(LOG, Seq(20), 0)
    assert server_lag(window(), [{ORDERS: Position(LOG, Seq(4))}], is_any_current=True) == ServerLag(LOG, Seq(4), 16)


def test_server_lag_ignores_clients_of_quiet_shapes() -> None:
    assert server_lag(window(), [{ORDERS: Position(LOG, Seq(18))}]) == ServerLag(LOG, Seq(20), 0)
    assert server_lag(window(), [{Shape("nothing"): Position(LOG, Seq(12))}]) == ServerLag(LOG, Seq(20), 0)


@pytest.mark.parametrize(("most", "counted"), [(9, 4), (8, 77)])
async def test_lag_far_behind_the_head_is_an_estimate(monkeypatch: pytest.MonkeyPatch, most: int, counted: int) -> None:
    """To count the events one by one takes as long as there are any of any shape."""
    made = window()
    made.extend([StoredEvent(Seq(21), "orders", IdText("1"), b"{}")])

    async def missed(*_: Any) -> int:
        return 77

    source: Any = SimpleNamespace(window=made, bind=lambda shape, _: shape)
    source.planner = SimpleNamespace(require=lambda _: None, missed=missed)
    lag = ClientLag(source, cast("Any", None))

    async def committed(*_: Any) -> float:
        return 0.0

    monkeypatch.setattr(lag, "_committed", committed)
    monkeypatch.setattr(module, "_committed", lambda _: 0.0)
    monkeypatch.setattr(module, "_MOST", most)
    found = await lag.of(ORDERS, Position(LOG, Seq(12)), cast("Access", None))
    assert found is not None
    assert found.events == counted
