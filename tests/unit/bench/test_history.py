from __future__ import annotations

from scripts.bench.crowd.history import History, Overtaking


def test_documents_take_turns() -> None:
    history = History(3)
    assert [history.is_event(seq, seq, (seq - 1) % 3) for seq in range(1, 8)] == [True] * 7
    assert not history.is_event(4, 4, 1)
    assert not history.is_event(4, 5, 0)


def test_who_overtakes_comes_once_and_always_at_the_same_place() -> None:
    history = Overtaking()
    assert history.is_event(1, 2, 2)
    assert history.is_event(2, 1, 1)
    assert history.is_event(1, 2, 2)
    assert not history.is_event(3, 2, 2), "a number that came before"
    assert not history.is_event(2, 3, 3), "another event than the other clients had there"
    assert not history.is_event(4, 4, 5), "the number of another document"
