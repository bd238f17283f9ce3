from __future__ import annotations

import itertools

from eventsync.mongodb.answer_size import ANSWER_BYTES, AnswerSize


def test_all_are_asked_for_while_nothing_is_known() -> None:
    assert AnswerSize().documents(1000) == 1000


def test_nothing_is_learnt_from_no_documents() -> None:
    size = AnswerSize()
    size.learn([])
    assert size.documents(1000) == 1000


def test_small_documents_never_bound_an_answer() -> None:
    size = AnswerSize()
    size.learn([500] * 1000)
    assert size.documents(1000) == 1000


def test_large_ones_come_a_few_at_a_time() -> None:
    size = AnswerSize()
    size.learn([ANSWER_BYTES // 4] * 10)
    assert size.documents(1000) == 4
    size.learn([8 * ANSWER_BYTES])
    assert size.documents(1000) == 1


def test_answers_grow_again_by_and_by() -> None:
    size = AnswerSize()
    size.learn([8 * ANSWER_BYTES])
    asked = []
    while (count := size.documents(1000)) < 1000:
        asked.append(count)
        size.learn([100] * count)
    assert all(later <= 4 * sooner for sooner, later in itertools.pairwise(asked))
    assert len(asked) < 10
