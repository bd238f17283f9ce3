from __future__ import annotations

from scripts.bench.crowd.history import History
from scripts.bench.crowd.messages import Reader
from scripts.bench.crowd.wire import TEXT, Frames
from scripts.bench.peers import frames


def test_a_peers_messages_are_read_as_the_servers_are() -> None:
    reader = Reader(History(0))
    message = reader.read(frames.event(7, 1.5, 300))
    assert (message.kind, message.start, message.end, message.at) == ("events", 6, 7, (1.5,))
    assert reader.read(frames.live(7)).end == 7


def test_a_frame_of_any_length_is_one_frame() -> None:
    payloads = [b"x" * size for size in (0, 125, 126, 65_535, 65_536)]
    cut = Frames().feed(b"".join(map(frames.text_frame, payloads)))
    assert list(cut) == [(TEXT, payload) for payload in payloads]
