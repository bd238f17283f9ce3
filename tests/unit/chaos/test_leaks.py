"""Bytes to principals, spoiled by hand: the leak checker says what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
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
    Known,
    LeakEvidence,
    Received,
    Revocation,
    Sight,
    Write,
    WriteAct,
    canary,
)

ORDER = "orders", "o1"
ADA = Credential("ada#1", "ada", "ada", 100.0, issued=5.0, revocations=("jti:ada#1", "sub:ada"))
BOB = Credential("bob#1", "bob", "bob", 1000.0, issued=5.0, revocations=("jti:bob#1", "sub:bob"))
FIRST, HIDDEN, SECOND, LATER = canary(), canary(), canary(), canary()
STATES = (
    DocumentState(0, ORDER, 10.0, {"owner": "ada", "note": FIRST, "margin": HIDDEN}, 10),
    DocumentState(1, ORDER, 20.0, {"owner": "bob", "note": SECOND, "margin": HIDDEN}, 20, 2, "bob"),
    DocumentState(2, ORDER, 30.0, {"owner": "bob", "note": LATER, "margin": HIDDEN}, 30, 3, "bob"),
)
"""The order is Ada's until 20, and Bob's then. Its margin is hidden from both."""


def sight(*states: int, **known: Any) -> Sight:
    shown = frozenset(str((STATES[number].document or {})["note"]) for number in states)
    may = dict.fromkeys(("create", "update", "delete"), frozenset(states))
    hidden = dict.fromkeys(range(len(STATES)), HIDDEN)
    return Sight(shown, frozenset(states), may, hidden, **{"collections": frozenset({"orders"}), **known})


def got(content: str, at: float, credential: Credential = ADA, **known: Any) -> Received:
    """A message that is pushed at this time."""
    return Received("client", credential.name, "a message", content, at, at, **{"act": "push", "server": "a", **known})


def read(content: str, at: float, credential: Credential = ADA, **known: Any) -> Received:
    """An answer to a request for the order, which took 0.2 s."""
    place = {"act": "read", "server": "a", "document": ORDER}
    return Received("client", credential.name, "GET", content, at - 0.2, at, **{**place, **known})


def wrote(
    at: float, credential: Credential = BOB, *, act: WriteAct = "update", status: int = 200, **known: Any
) -> Received:
    """An answer to a request to write the order."""
    write = Write(ORDER, act, status, **{"mark": LATER, "version": 3, "neutral": True, **known})
    content = '{"id":"o1","repeated":true}' if write.repeated else '{"id":"o1"}'
    return Received(
        "client", credential.name, "PATCH", content, at - 0.2, at, status, "other", server="a", key="k", writes=(write,)
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
            wrote(30.1),
            wrote(30.4, repeated=True),
        ),
        states=STATES,
        used={("bob", "k"): (29.9, 30.2), ("ada", "k"): (30.8,)},
        sights={(0, "ada"): sight(0), (0, "bob"): sight(1, 2), (1, "ada"): Sight(), (1, "bob"): sight(1, 2)},
        rules=(AppliedRules(0, 0.0),),
        known=Known(tuple((time + 0.3, int(time)) for time in (10.0, 20.0, 30.0, 40.0)), {"a": ((1.0, 0),)}),
        held=(Held("client", {"o1": (2, {"note": LATER})}, {"o1": (2, {"note": LATER})}),),
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
    assert judged(evidence, got(own, 11.5), written={"ada": frozenset({own})}) == []


def test_a_read_of_what_is_not_readable_now_is_a_leak(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, read(f"as it was: {FIRST}", 25.0))
    assert (promise, message) == ("leak", "ada was sent orders/o1, which it may not read now (GET)")


def test_the_past_of_what_is_deleted_is_for_those_who_may_read_all(evidence: LeakEvidence) -> None:
    states = (*STATES, DocumentState(3, ORDER, 40.0, None, 40, 4, "bob"))
    past = read(f"as it was: {LATER}", 45.0, BOB)
    assert promises(evidence, past, states=states) == ["leak"]
    sights = {**evidence.sights, (0, "bob"): replace(sight(1, 2), whole=frozenset({"orders"}))}
    assert judged(evidence, past, states=states, sights=sights) == []


def test_a_read_while_the_owner_changes_is_no_leak(evidence: LeakEvidence) -> None:
    # It may have been read just before the change was committed, however long its answer took.
    slow = replace(read(f"as it was: {FIRST}", 29.0), began=20.2)
    assert judged(evidence, slow) == []
    assert promises(evidence, replace(slow, began=20.3)) == ["leak"]


def obeying(evidence: LeakEvidence, since: float, other: float = 50.0) -> dict[str, Any]:
    """Evidence of rules that take all away from Ada from 13 on, which the server is known to obey since a time."""
    known = replace(evidence.known, obeyed={"a": ((1.0, 0), (since, 1)), "b": ((1.0, 0), (other, 1))})
    return {"rules": (AppliedRules(0, 0.0), AppliedRules(1, 13.0)), "known": known}


def test_content_after_rules_have_taken_it_away_is_a_leak(evidence: LeakEvidence) -> None:
    assert judged(evidence, got(FIRST, 14.5), **obeying(evidence, 15.0)) == []
    assert promises(evidence, got(FIRST, 15.5), **obeying(evidence, 15.0)) == ["leak"]
    # Another server does not know these rules yet.
    assert judged(evidence, got(FIRST, 15.5, server="b"), **obeying(evidence, 15.0)) == []


def test_an_answer_to_a_request_of_before_other_rules_is_no_leak(evidence: LeakEvidence) -> None:
    slow = replace(read(FIRST, 19.0), began=14.9)
    assert judged(evidence, slow, **obeying(evidence, 15.0)) == []
    assert promises(evidence, replace(slow, began=15.0), **obeying(evidence, 15.0)) == ["leak"]


def test_content_after_the_end_of_a_token_breaks_the_silence(evidence: LeakEvidence) -> None:
    late = ADA.expires + LEEWAY
    # It was sent at some time after the connection began.
    assert judged(evidence, replace(got(FIRST, late + 5), began=late - 1)) == []
    ((promise, message),) = judged(evidence, got(FIRST, late + 1.5))
    assert (promise, message) == ("silence", "ada#1 was sent content 1.5 s after it had expired (a message)")


def test_a_clock_that_is_behind_ends_a_token_later(evidence: LeakEvidence) -> None:
    late = ADA.expires + LEEWAY
    jumps = (Jump("a", late, late + 9, -30.0),)
    assert judged(evidence, got(FIRST, late + 8), jumps=jumps) == []
    assert promises(evidence, got(FIRST, late + 8, server="b"), jumps=jumps) == ["silence"]


def test_content_after_a_revocation_breaks_the_silence(evidence: LeakEvidence) -> None:
    known = replace(evidence.known, revoked={("ada#1", "a"): 12.5})
    assert judged(evidence, got(FIRST, 14.0, server="b"), known=known) == []
    ((promise, message),) = judged(evidence, got(FIRST, 14.0), known=known)
    assert (promise, message) == ("silence", "ada#1 was sent content 1.5 s after it was revoked (a message)")


def test_two_tags_of_what_is_shown_as_the_same_are_a_leak(evidence: LeakEvidence) -> None:
    again = read(f'ETag: "1.b"\n\n{{"doc":{{"note":"{FIRST}"}}}}', 13.0, tag='"1.b"')
    assert promises(evidence, again) == ["leak"]


def test_an_answer_to_another_subject_is_not_permitted(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, wrote(31.0, ADA, repeated=True))
    assert (promise, message) == ("permission", "ada was given the answer to a request of another subject")


def test_a_write_by_others_is_not_permitted(evidence: LeakEvidence) -> None:
    states = (*STATES[:2], replace(STATES[2], by="ada"))
    ((promise, message),) = judged(replace(evidence, received=()), wrote(30.1, ADA), states=states)
    assert (promise, message) == ("permission", "ada made a update that no rule allows of orders/o1")


def test_a_write_that_no_commit_has_made_is_lost(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, wrote(40.1, mark=canary()))
    assert promise == "survival"
    assert message == "bob was answered a update of orders/o1 that no commit has made (PATCH)"
    assert promises(evidence, wrote(40.1, version=7, mark=SECOND)) == ["survival"]
    # That of the same value again is none.
    assert judged(evidence, wrote(40.1)) == []


def test_a_write_that_takes_possession_is_not_permitted(evidence: LeakEvidence) -> None:
    # The state afterwards is Bob's, that before is not.
    assert promises(evidence, wrote(20.1, mark=SECOND, version=2)) == ["permission"]


def test_a_change_of_hidden_fields_is_not_permitted(evidence: LeakEvidence) -> None:
    sights = {**evidence.sights, (0, "bob"): replace(sight(1, 2), hidden={1: "1", 2: "2"})}
    assert judged(evidence, sights=sights) == [("permission", "bob changed hidden or fixed fields of orders/o1")]
    sights = {**evidence.sights, (0, "bob"): replace(sight(1, 2), fixed={1: "1", 2: "2"})}
    assert judged(evidence, sights=sights) == [("permission", "bob changed hidden or fixed fields of orders/o1")]


def test_a_write_is_allowed_by_rules_that_are_taken_away_meanwhile(evidence: LeakEvidence) -> None:
    sights = {**evidence.sights, (1, "bob"): Sight()}
    rules = (AppliedRules(0, 0.0), AppliedRules(1, 25.0))
    overtaken = replace(evidence.known, obeyed={"a": ((1.0, 0), (30.0, 1))})
    assert judged(evidence, sights=sights, rules=rules, known=overtaken) == []
    obeyed = replace(evidence.known, obeyed={"a": ((1.0, 0), (29.8, 1))})
    assert promises(evidence, sights=sights, rules=rules, known=obeyed) == ["permission"]


def test_a_deletion_by_others_is_not_permitted(evidence: LeakEvidence) -> None:
    states = (*STATES, DocumentState(3, ORDER, 40.0, None, 40, 4, "bob"))
    assert judged(evidence, wrote(40.1, act="delete", version=4), states=states) == []
    states = (*STATES, replace(states[-1], by="ada"))
    assert promises(evidence, wrote(40.1, ADA, act="delete", version=4), states=states) == ["permission"]


def test_a_refused_write_that_is_allowed(evidence: LeakEvidence) -> None:
    ((promise, message),) = judged(evidence, wrote(35.0, status=403))
    assert (promise, message) == ("allowed", "bob was refused orders/o1, which it may update (PATCH)")
    assert judged(evidence, wrote(35.0, status=403, neutral=False)) == []


def test_a_refused_write_that_another_change_has_overtaken(evidence: LeakEvidence) -> None:
    # The order may still have been Ada's.
    assert judged(evidence, wrote(20.4, status=404)) == []
    slow = replace(wrote(29.0, status=404), began=20.2)
    assert judged(evidence, slow) == []
    assert promises(evidence, replace(slow, began=20.3)) == ["allowed"]


def test_a_refused_write_that_other_rules_have_overtaken(evidence: LeakEvidence) -> None:
    more: Any = {"sights": {**evidence.sights, (1, "bob"): replace(sight(1, 2), closed=frozenset({"orders"}))}}
    refused = wrote(32.0, status=403)
    rules: Sequence[AppliedRules] = (AppliedRules(0, 0.0), AppliedRules(1, 31.9))
    assert judged(evidence, refused, rules=rules, **more) == []
    # And by rules that are not in force any more, on a server that may not know that.
    rules = (AppliedRules(0, 0.0), AppliedRules(1, 31.0), AppliedRules(0, 31.5))
    assert judged(evidence, refused, rules=rules, **more) == []
    known = replace(evidence.known, obeyed={"a": ((31.7, 2),)})
    assert promises(evidence, refused, rules=rules, known=known, **more) == ["allowed"]


def test_a_transaction_is_refused_for_one_of_its_writes(evidence: LeakEvidence) -> None:
    (allowed,) = wrote(35.0, status=403).writes
    refused = replace(allowed, document=("orders", "o2"))
    assert judged(evidence, replace(wrote(35.0, status=403), writes=(allowed, refused))) == []
    assert promises(evidence, replace(wrote(35.0, status=403), writes=(allowed, allowed))) == ["allowed"]


def test_each_write_of_a_batch_has_its_own_refusal(evidence: LeakEvidence) -> None:
    (allowed,) = wrote(35.0, status=403).writes
    refused = replace(allowed, document=("orders", "o2"))
    assert promises(evidence, replace(wrote(35.0), writes=(refused, allowed))) == ["allowed"]


def test_a_refusal_of_what_is_allowed(evidence: LeakEvidence) -> None:
    found = judged(evidence, read("", 15.0, status=404))
    assert found == [("allowed", "ada was refused orders/o1, which it may read (GET)")]


def test_a_refusal_of_a_good_token(evidence: LeakEvidence) -> None:
    assert promises(evidence, read("", 15.0, status=401)) == ["allowed"]
    assert judged(evidence, read("", ADA.expires + LEEWAY, status=401)) == []
    # Of two credentials it may have been the other one that was refused.
    assert promises(evidence, read("", ADA.expires + LEEWAY, BOB, status=401)) == ["allowed"]
    assert judged(evidence, read("", ADA.expires + LEEWAY, BOB, status=401, other=ADA.name)) == []


def test_a_refusal_of_a_revoked_token(evidence: LeakEvidence) -> None:
    by_name, of_all = Revocation("jti:ada#1", 14.0, 16.0, 15.0), Revocation("sub:ada", 14.0, 16.0, 15.0)
    for revocation in (by_name, of_all):
        assert judged(evidence, read("", 15.0, status=401), revocations=(revocation,)) == []
        assert promises(evidence, read("", 13.9, status=401), revocations=(revocation,)) == ["allowed"]
        assert promises(evidence, read("", 15.0, BOB, status=401), revocations=(revocation,)) == ["allowed"]
    # What a subject is issued later is good.
    earlier = replace(of_all, at=ADA.issued - LEEWAY - 0.1)
    assert promises(evidence, read("", 15.0, status=401), revocations=(earlier,)) == ["allowed"]


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
