from __future__ import annotations

from eventsync.concurrency.waiting import LightEvent
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.sync.live.fan_out import Channel, DirectWriter, Publication

LOG = LogId("aaaaaaaa")
ORDERS = Shape("orders")


def at(seq: int) -> Position:
    return Position(LOG, Seq(seq))


class Client:
    """A subscriber whose connection accepts every write, or none."""

    def __init__(self, channel: Channel) -> None:
        self.event = LightEvent()
        self.subscriber = channel.subscribe(self.event)
        self.takes = True
        self.got: list[bytes] = []

    def write(self, data: bytes) -> bool:
        if self.takes:
            self.got.append(data)
        return self.takes

    def woken(self) -> bool:
        woken = self.event.is_set()
        self.event.clear()
        return woken


def plain(publication: Publication) -> bytes:
    return publication.data


class Upper:
    """An encoding that counts its calls."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, publication: Publication) -> bytes:
        self.made += 1
        return publication.data.upper()


def test_publish_writes_to_attached_subscribers_and_wakes_waiting_ones() -> None:
    channel = Channel(ORDERS, Seq(0))
    attached, waiting = Client(channel), Client(channel)
    attached.subscriber.attach(at(3), DirectWriter(plain, attached.write))
    assert attached.subscriber.position == at(3)
    channel.publish(b"a", at(5))
    assert (attached.got, attached.woken(), attached.subscriber.position) == ([b"a"], False, at(5))
    assert (waiting.got, waiting.woken()) == ([], True)
    attached.subscriber.detach()
    assert (attached.subscriber.position, attached.subscriber.last_sent) == (at(5), channel.last_published)
    channel.publish(b"b", at(6))
    assert (attached.got, attached.woken(), attached.subscriber.position) == ([b"a"], True, at(5))


def test_publish_encodes_once_for_each_encoding() -> None:
    channel, upper = Channel(ORDERS, Seq(0)), Upper()
    clients = [Client(channel) for _ in range(6)]
    for number, client in enumerate(clients):
        client.subscriber.attach(at(0), DirectWriter(upper if number % 2 else plain, client.write))
    channel.publish(b"a", at(1))
    assert upper.made == 1
    assert [client.got for client in clients] == [[b"a"], [b"A"]] * 3
    assert len({id(client.got[0]) for client in clients[1::2]}) == 1


def test_publish_detaches_and_wakes_a_subscriber_whose_write_is_refused_at_its_position() -> None:
    channel = Channel(ORDERS, Seq(0))
    slow, other = Client(channel), Client(channel)
    for client in (slow, other):
        client.subscriber.attach(at(0), DirectWriter(plain, client.write))
    channel.publish(b"a", at(1))
    last_published, slow.takes = channel.last_published, False
    channel.publish(b"b", at(2))
    slow.takes = True
    channel.publish(b"c", at(3))
    assert (slow.got, slow.subscriber.position, slow.subscriber.last_sent) == ([b"a"], at(1), last_published)
    assert slow.woken()
    assert (other.got, other.subscriber.position, other.woken()) == ([b"a", b"b", b"c"], at(3), False)


def test_detach_without_writes_keeps_the_position_of_the_subscriber() -> None:
    channel = Channel(ORDERS, Seq(0))
    channel.publish(b"a", at(4))
    late = Client(channel)
    late.subscriber.attach(at(9), DirectWriter(plain, late.write))
    late.subscriber.detach()
    assert (late.subscriber.position, late.subscriber.last_sent) == (at(9), 0.0)


def test_wake_detaches_and_wakes_all_subscribers() -> None:
    channel = Channel(ORDERS, Seq(0))
    attached, waiting = Client(channel), Client(channel)
    attached.subscriber.attach(at(0), DirectWriter(plain, attached.write))
    channel.publish(b"a", at(7))
    assert waiting.woken()
    channel.wake()
    assert (attached.woken(), waiting.woken(), attached.subscriber.position) == (True, True, at(7))
    channel.publish(b"b", at(8))
    assert attached.got == [b"a"]


def test_reset_forgets_the_position_of_the_last_publication() -> None:
    channel, other = Channel(ORDERS, Seq(0)), LogId("bbbbbbbb")
    client = Client(channel)
    client.subscriber.attach(at(0), DirectWriter(plain, client.write))
    channel.publish(b"a", at(7))
    channel.reset(Seq(2))
    assert (client.woken(), client.subscriber.position, channel.since) == (True, at(7), 2)
    client.subscriber.attach(Position(other, Seq(2)), DirectWriter(plain, client.write))
    assert client.subscriber.position == Position(other, Seq(2)), "that log has not come so far"


def test_unsubscribe_ends_writes_and_wake_ups() -> None:
    channel = Channel(ORDERS, Seq(0))
    attached, waiting = Client(channel), Client(channel)
    attached.subscriber.attach(at(0), DirectWriter(plain, attached.write))
    assert len(channel) == 2
    channel.unsubscribe(attached.subscriber)
    channel.unsubscribe(waiting.subscriber)
    channel.publish(b"a", at(1))
    assert len(channel) == 0
    assert (attached.got, attached.woken(), waiting.woken()) == ([], False, False)
