"""Bytes to principals, spoiled by hand: the leak checker says what is wrong with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.chaos.leaks.checks import check_leaks
from support.chaos.leaks.evidence import (
    LEEWAY,
    AppliedRules,
    Credential,
    DocumentState,
    Held,
    Jump,
    LeakEvidence,
    Received,
    Sight,
    canary,
)

ORDER = "orders", "o1"
ADA, BOB = Credential("ada#1", "ada", "ada", 100.0), Credential("bob#1", "bob", "bob", 1000.0)
FIRST, HIDDEN, SECOND, LATER = canary(), canary(), canary(), canary()
STATES = (
    DocumentState(0, ORDER, 10.0, {"owner": "ada", "note": FIRST, "margin": HIDDEN}, HIDDEN),
    DocumentState(1, ORDER, 20.0, {"owner": "bob", "note": SECOND, "margin": HIDDEN}, HIDDEN),
    DocumentState(2, ORDER, 30.0, {"owner": "bob", "note": LATER, "margin": HIDDEN}, HIDDEN),
)
"""The order is Ada's until 20, and Bob's then. Its margin is hidden from both."""


def sight(*states: int, **known: Any) -> Sight:
    shown = frozenset(str((STATES[number].document or {})["note"]) for number in states)
    may = dict.fromkeys(("create", "update", "delete"), frozenset(states))
    return Sight(shown, frozenset(states), may, **{"collections": frozenset({"orders"}), **known})


def got(content: str, at: float, credential: Credential = ADA, **known: Any) -> Received:
    """A message that is pushed at this time."""
    return Received("client", credential.name, "a message", content, at, at, **{"act": "push", **known})


def read(content: str, at: float, credential: Credential = ADA, **known: Any) -> Received:
    """An answer to a request for the order."""
    return Received(
        "client", credential.name, "GET", content, at - 0.1, at, **{"act": "read", "document": ORDER, **known}
    )


@pytest.fixture
def evidence() -> LeakEvidence:
    """Evidence of a run in which all is right."""
    return LeakEvidence(
        credentials={item.name: item for item in (ADA, BOB)},
        received=(
            got(f'{{"doc":{{"note":"{FIRST}"}}}}', 11.0),
            read(f'ETag: "1.a"\n\n{{"doc":{{"note":"{FIRST}"}}}}', 12.0, tag='"1.a"'),
            got('{"op":"delete","leave":true}', 20.1),
            read('{"code":"not_found"}', 25.0, status=404),
            got(f'{{"op":"create","enter":true,"doc":{{"note":"{SECOND}"}}}}', 20.1, BOB),
            read("", 30.1, BOB, act="update", mark=LATER, key="k1", neutral=True),
            read('{"id":"o1","repeated":true}', 30.4, BOB, act="update", mark=LATER, key="k1", neutral=True),
        ),
        states=STATES,
        sights={(0, "ada"): sight(0), (0, "bob"): sight(1, 2), (1, "ada"): Sight(), (1, "bob"): sight(1, 2)},
        rules=(AppliedRules(0, 0.0, 1.0),),
        held=(Held("client", {"o1": (2, {"note": LATER})}, {"o1": (2, {"note": LATER})}),),
        grace=1.0,
    )


def judged(evidence: LeakEvidence, *more: Received, **known: Any) -> list[tuple[str, str]]:
    spoiled = replace(evidence, received=(*evidence.received, *more), **known)
    return [(violation.promise, violation.message) for violation in check_leaks(spoiled)]


def promises(evidence: LeakEvidence, *more: Received, **known: Any) -> list[str]:
    return [promise for promise, _ in judged(evidence, *more, **known)]


def test_a_run_that_is_right_passes(evidence: LeakEvidence) -> None:
    assert judged(evidence) == []


def test_content_of_others_is_a_leak(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, got(f"x{SECOND}x", 20.2))
    assert (promise, message) == ("leak", f"ada was sent {SECOND}, which it was never allowed to see (a message)")


def test_a_hidden_field_is_a_leak(evidence: LeakEvidence) -> None:
    assert promises(evidence, got(f'{{"margin":"{HIDDEN}"}}', 11.5)) == ["leak"]


def test_an_error_that_quotes_a_hidden_field_is_a_leak(evidence: LeakEvidence) -> None:
    refusal = read(f"409\nX-Reason: margin is {HIDDEN}\n\n{{}}", 12.0, status=409)
    assert promises(evidence, refusal) == ["leak"]


def test_a_canary_that_no_state_has_is_a_leak(evidence: LeakEvidence) -> None:
    assert promises(evidence, got(canary(), 11.5)) == ["leak"]


def test_own_words_are_no_leak(evidence: LeakEvidence) -> None:
    own = canary()
    assert judged(evidence, got(own, 11.5), known={"ada": frozenset({own})}) == []


def test_a_read_of_what_is_not_readable_now_is_a_leak(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, read(f"as it was: {FIRST}", 25.0))
    assert (promise, message) == ("leak", "ada was sent orders/o1, which it may not read now (GET)")


def test_a_read_while_the_owner_changes_is_no_leak(evidence: LeakEvidence) -> None:
    assert judged(evidence, read(f"as it was: {FIRST}", 20.5)) == []


def test_content_after_rules_have_taken_it_away_is_a_leak(evidence: LeakEvidence) -> None:
    rules = AppliedRules(0, 0.0, 1.0), AppliedRules(1, 13.0, 14.0)
    assert judged(evidence, got(FIRST, 14.5), rules=rules) == []
    assert promises(evidence, got(FIRST, 15.5), rules=rules) == ["leak"]


def test_content_after_the_end_of_a_token_breaks_the_silence(evidence: LeakEvidence) -> None:
    late = ADA.expires + LEEWAY
    assert judged(evidence, got(FIRST, late + 0.5)) == []
    ((promise, message),) = judged(evidence, got(FIRST, late + 1.5))
    assert (promise, message) == ("silence", "ada#1 was sent content 1.5 s after it had expired (a message)")


def test_a_clock_that_is_behind_ends_a_token_later(evidence: LeakEvidence) -> None:
    late = ADA.expires + LEEWAY
    jumps = (Jump("serve1", late, late + 9, -30.0),)
    assert judged(evidence, got(FIRST, late + 8, server="serve1"), jumps=jumps) == []
    assert promises(evidence, got(FIRST, late + 8, server="serve2"), jumps=jumps) == ["silence"]


def test_content_after_a_revocation_breaks_the_silence(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, got(FIRST, 14.0), revoked={"ada#1": 12.5})
    assert (promise, message) == ("silence", "ada#1 was sent content 1.5 s after it was revoked (a message)")


def test_two_tags_of_what_is_shown_as_the_same_are_a_leak(evidence: LeakEvidence) -> None:
    again = read(f'ETag: "1.b"\n\n{{"doc":{{"note":"{FIRST}"}}}}', 13.0, tag='"1.b"')
    assert promises(evidence, again) == ["leak"]


def test_an_answer_to_another_subject_is_not_permitted(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, read('{"repeated":true}', 31.0, act="other", key="k1"))
    assert (promise, message) == ("permission", "ada was given the answer to a request of another subject")


def test_a_write_by_others_is_not_permitted(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, read("", 30.1, act="update", mark=LATER))
    assert (promise, message) == ("permission", "ada made a update that no rule allows of orders/o1")


def test_a_write_that_takes_possession_is_not_permitted(evidence: LeakEvidence) -> None:
    # The state afterwards is Bob's, that before is not.
    assert promises(evidence, read("", 20.0, BOB, act="update", mark=SECOND)) == ["permission"]


def test_a_change_of_hidden_fields_is_not_permitted(evidence: LeakEvidence) -> None:
    states = (*STATES[:2], replace(STATES[2], hidden="changed"))
    assert ("permission", "bob changed hidden or fixed fields of orders/o1") in judged(evidence, states=states)


def test_a_deletion_by_others_is_not_permitted(evidence: LeakEvidence) -> None:
    states = (*STATES, DocumentState(3, ORDER, 40.0, None))
    assert judged(evidence, read("", 40.0, BOB, act="delete"), states=states) == []
    assert promises(evidence, read("", 40.0, act="delete"), states=states) == ["permission"]


def test_a_refusal_of_what_is_allowed(evidence: LeakEvidence) -> None:
    found = judged(evidence, read("", 15.0, status=404))
    assert found == [("allowed", "ada was refused orders/o1, which it may read (GET)")]


def test_a_refusal_of_a_good_token(evidence: LeakEvidence) -> None:
    assert promises(evidence, read("", 15.0, status=401)) == ["allowed"]
    assert judged(evidence, read("", ADA.expires + LEEWAY, status=401)) == []


def test_a_refusal_of_a_shape_of_which_something_is_readable(evidence: LeakEvidence) -> None:
    refused = got('{"code":"forbidden"}', 15.0, status=403, collection="orders")
    assert promises(evidence, refused) == ["allowed"]
    assert judged(evidence, replace(refused, collection="vault")) == []


def test_an_end_without_what_is_allowed(evidence: LeakEvidence) -> None:
    lost = Held("client", {}, {"o1": (2, {"note": LATER})})
    assert judged(evidence, held=(lost,)) == [
        ("allowed", "client ends with a state that differs from what MongoDB finds in o1")
    ]


def test_an_end_with_what_was_taken_away(evidence: LeakEvidence) -> None:
    kept = Held("client", {"o1": (1, {"note": FIRST})}, {})
    assert promises(evidence, held=(kept,)) == ["allowed"]
