"""How far the clients of a server are behind."""

from __future__ import annotations

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live.pages import PageLimit
from eventsync.sync.live.window import Window
from eventsync.sync.operating import Behind, behind

LOG, OTHER = LogId("aaaa"), LogId("bbbb")
ORDERS, USERS = Shape("orders"), Shape("users")


def window() -> Window:
    """Events 11 to 20; the even ones are of `orders`, the odd ones of `users`, but for 20."""
    made = Window(10_000_000, PageLimit(100, 100_000))
    made.start(LOG, Seq(10))
    names = {seq: "users" if seq % 2 or seq == 20 else "orders" for seq in range(11, 21)}
    made.extend(StoredEvent(Seq(seq), name, IdText("1"), b"{}") for seq, name in names.items())
    return made


def test_without_clients_nobody_is_behind() -> None:
    assert behind(window(), []) == Behind(LOG, None, 0)
    assert behind(window(), [{ORDERS: Position(OTHER, Seq(3))}]) == Behind(LOG, None, 0)


def test_the_oldest_client_counts() -> None:
    vectors = [{ORDERS: Position(LOG, Seq(18))}, {USERS: Position(LOG, Seq(13)), ORDERS: Position(LOG, Seq(16))}]
    assert behind(window(), vectors) == Behind(LOG, Seq(13), 7)
    assert behind(window(), [{ORDERS: Position(LOG, Seq(4))}]) == Behind(LOG, Seq(4), 16)


def test_a_client_of_a_quiet_shape_is_not_behind() -> None:
    assert behind(window(), [{ORDERS: Position(LOG, Seq(18))}]) == Behind(LOG, Seq(20), 0)
    assert behind(window(), [{Shape("nothing"): Position(LOG, Seq(12))}]) == Behind(LOG, Seq(20), 0)
