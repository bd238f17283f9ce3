"""Conditions: what is read, what is compared, and what is refused."""

from __future__ import annotations

import pytest

from eventsync.domain.condition import Condition, State, Tags
from eventsync.domain.entity_tag import digest_of
from eventsync.errors import Malformed

DOCUMENT = {"_id": 1, "n": 1}
DIGEST = digest_of(DOCUMENT)
STATE: State = (7, DOCUMENT)


def tags(*lines: str) -> Tags:
    return Tags.parse(lines, "If-Match")


@pytest.mark.parametrize(
    ("lines", "opaque"),
    [
        (['"a"'], {"a"}),
        (['W/"a"'], {"a"}),
        (['"a", "b" ,W/"c"'], {"a", "b", "c"}),
        (['"a"', '"b","c"'], {"a", "b", "c"}),
        ([',"a",, "b",'], {"a", "b"}),
        (['""'], {""}),
        (['"a,b"', '"*"'], {"a,b", "*"}),
        (['\t"\xe9#~!"  '], {"\xe9#~!"}),
    ],
)
def test_lists_of_tags(lines: list[str], opaque: set[str]) -> None:
    assert tags(*lines) == Tags(frozenset(opaque))


def test_a_star() -> None:
    assert tags(" * ") == Tags(any_state=True)


@pytest.mark.parametrize(
    "lines",
    [
        [""],
        [" , ,"],
        ["7"],
        ["'7'"],
        ['"7'],
        ['7"'],
        ['w/"7"'],
        ['W/ "7"'],
        ['"7" "8"'],
        ['"a b"'],
        ['"a\x7f"'],
        ["*", '"7"'],
        ['*, "7"'],
        ["**"],
        ['"7"', "x"],
        ['"7",' * 3000],
        [f",{' ' * 8000}x"],
        [f'"7"{" " * 8000}x'],
    ],
)
def test_other_texts_are_no_list_of_tags(lines: list[str]) -> None:
    with pytest.raises(Malformed, match="If-Match"):
        tags(*lines)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (f'"7.{DIGEST}"', True),
        (f'W/"7.{DIGEST}"', True),
        (f'"1", "7.{DIGEST}"', True),
        ('"7"', True),
        ("*", True),
        (f'"8.{DIGEST}"', False),
        ('"7.0000000000000000"', False),
        ('"7."', False),
        ('"07"', False),
        (f'"{DIGEST}"', False),
        ('"70"', False),
        ('"a"', False),
    ],
)
def test_a_tag_names_a_state_by_version_or_digest(value: str, named: bool) -> None:
    assert tags(value).name(STATE) is named
    assert not tags(value).name(None)


def test_versions_name_nothing_where_they_may_not() -> None:
    assert not tags('"7"').name(STATE, versions=False)
    assert tags(f'"7.{DIGEST}"').name(STATE, versions=False)


@pytest.mark.parametrize(
    ("match", "none_match", "holds"),
    [
        (None, None, True),
        ('"7"', None, True),
        ('"8"', None, False),
        (None, '"8"', True),
        (None, f'"7.{DIGEST}"', False),
        (None, "*", False),
        ("*", '"8"', True),
        ("*", "*", False),
        ('"8"', '"9"', False),
    ],
)
def test_conditions(match: str | None, none_match: str | None, holds: bool) -> None:
    condition = Condition(
        None if match is None else tags(match),
        None if none_match is None else tags(none_match),
    )
    assert condition.holds(STATE) is holds


def test_an_absent_document_is_in_no_state() -> None:
    assert Condition(none_match=tags("*")).holds(None)
    assert Condition(none_match=tags('"7"')).holds(None)
    assert not Condition(match=tags("*")).holds(None)
    assert not Condition(match=tags('"7"')).holds(None)
