from __future__ import annotations

import pytest

from scripts.bench.crowd.history import History, Overtaking
from scripts.bench.crowd.messages import Reader, WrongError
from scripts.bench.crowd.wire import TEXT, Frames
from scripts.bench.peers import frames


def test_a_peers_messages_are_read_as_the_servers_are() -> None:
    reader = Reader(History(0))
    message = reader.read(frames.event(7, 1.5, 300))
    assert (message.kind, message.start, message.end, message.at) == ("events", 6, 7, (1.5,))
    assert reader.read(frames.live(7)).end == 7
    changes = Reader(Overtaking(3))
    message = changes.read(frames.changed(1, 2, {"n": 6, "at": 2.5}))
    assert (message.start, message.end, message.at) == (0, 1, (2.5,))
    with pytest.raises(WrongError, match="event 2 is 6 of int:2"):
        changes.read(frames.changed(2, 2, {"n": 6, "at": 2.5}))
    with pytest.raises(WrongError, match="event 2 is 5 of int:2"):
        changes.read(frames.changed(2, 2, {"n": 5, "at": 2.5}))


def test_a_frame_of_any_length_is_one_frame() -> None:
    payloads = [b"x" * size for size in (0, 125, 126, 65_535, 65_536)]
    cut = Frames().feed(b"".join(map(frames.text_frame, payloads)))
    assert list(cut) == [(TEXT, payload) for payload in payloads]
