from __future__ import annotations

import math

from support.chaos.history import Effect, Recorder, identified

PUT = Effect(("orders", "1"), "m1")
DELETE = Effect(("orders", "1"), None)


def test_a_write_from_invocation_to_outcome() -> None:
    recorder = Recorder()
    recorder.invoke("w1", "api", [PUT], keyed=True)
    recorder.invoke("w2", "behind", [DELETE])
    recorder.end("w2", "ok", effects=())
    recorder.end("w1", "failed", detail="404")
    first, second = recorder.history().writes
    assert (first.operation, first.outcome, first.detail) == ("w1", "failed", "404")
    assert first.invoked <= second.invoked <= second.ended <= first.ended
    assert second.effects == ()
    assert recorder.acknowledged == 1


def test_a_write_without_an_end_is_unknown() -> None:
    recorder = Recorder()
    recorder.invoke("w1", "behind", [PUT])
    [write] = recorder.history().writes
    assert (write.outcome, write.ended) == ("unknown", math.inf)


def test_effects_by_name() -> None:
    recorder = Recorder()
    recorder.invoke("w1", "api", [DELETE], keyed=True)
    recorder.invoke("w2", "behind", [DELETE, PUT])
    names = {name: write.operation for name, write in identified(recorder.history().writes)}
    assert names == {"w1 deletes orders/1": "w1", "m1": "w2"}, "a delete behind the API has no name"


def test_frames_of_every_kind() -> None:
    recorder = Recorder()
    recorder.frame("c", "orders", {"type": "events", "from": "l:1", "to": "l:2", "events": [{"seq": 2}]})
    recorder.frame("c", "orders", {"type": "snapshot", "position": "l:1", "part": 0, "last": False, "docs": []})
    recorder.frame("c", "orders", {"type": "progress", "vector": {"orders": "l:3", "stock": "l:9"}})
    recorder.frame("c", "orders", {"type": "progress", "vector": {}})
    events, snapshot, progress, silent = recorder.history().frames
    assert (events.start, events.end, events.events) == ("l:1", "l:2", ({"seq": 2},))
    assert (snapshot.start, snapshot.end, snapshot.last) == (None, "l:1", False)
    assert progress.end == "l:3"
    assert silent.end is None
