"""Any run in which all is right passes, and whatever is spoilt in it is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.chaos.checker import check
from support.chaos.evidence import LogRow
from support.chaos.sample import Sample

_acts = st.lists(
    st.tuples(st.sampled_from(["a/1", "a/2", "b/1"]), st.sampled_from(["put", "put", "delete"])),
    min_size=1,
    max_size=3,
    unique_by=lambda act: act[0],
)
Script = list[tuple[list[tuple[str, str]], str]]
_scripts = st.lists(st.tuples(_acts, st.sampled_from(["api", "behind"])), min_size=2, max_size=12)


def made(script: Script) -> Sample:
    sample = Sample()
    for acts, via in script:
        sample.write(*acts, via="api" if via == "api" else "behind")
    return sample


@settings(deadline=None)
@given(_scripts, st.lists(st.integers(0, 40), max_size=5))
def test_a_right_run_passes(script: Script, stops: list[int]) -> None:
    sample = made(script)
    frames = [*sample.frames("one", "a", stops), *sample.frames("two", "b", stops)]
    assert check(sample.evidence(*frames)) == []


def drop(rows: list[LogRow], index: int) -> list[LogRow]:
    return rows[:index] + rows[index + 1 :]


def double(rows: list[LogRow], index: int) -> list[LogRow]:
    return [*rows[: index + 1], *rows[index:]]


def swap(rows: list[LogRow], index: int) -> list[LogRow]:
    assume(index + 1 < len(rows))
    return [*rows[:index], rows[index + 1], rows[index], *rows[index + 2 :]]


def rebase(rows: list[LogRow], index: int) -> list[LogRow]:
    body = {**rows[index].body, "base": int(rows[index].body["base"]) + 1}
    return [*rows[:index], replace(rows[index], body=body), *rows[index + 1 :]]


def redirect(rows: list[LogRow], index: int) -> list[LogRow]:
    key = (rows[index].key[0], "elsewhere")
    body = {**rows[index].body, "id": "elsewhere"}
    return [*rows[:index], replace(rows[index], key=key, body=body), *rows[index + 1 :]]


@settings(deadline=None)
@given(_scripts, st.sampled_from([drop, double, swap, rebase, redirect]), st.integers(0, 40))
def test_a_spoilt_log_fails_even_when_it_is_numbered_well(
    script: Script, spoil: Callable[[list[LogRow], int], list[LogRow]], where: int
) -> None:
    sample = made(script)
    assume(sample.rows)
    rows = spoil(sample.rows, where % len(sample.rows))
    rows = [replace(row, seq=seq, body={**row.body, "seq": seq}) for seq, row in enumerate(rows, start=1)]
    assert check(replace(sample.evidence(), rows=tuple(rows)))


@settings(deadline=None)
@given(_scripts, st.lists(st.integers(1, 40), min_size=1, max_size=5), st.data())
def test_a_frame_without_one_of_its_events_fails(script: Script, stops: list[int], data: st.DataObject) -> None:
    sample = made(script)
    frames = sample.frames("one", "a", stops)
    full = [index for index, frame in enumerate(frames) if frame.events]
    assume(full)
    index = data.draw(st.sampled_from(full))
    gone = data.draw(st.integers(0, len(frames[index].events) - 1))
    events = tuple(event for number, event in enumerate(frames[index].events) if number != gone)
    frames[index] = replace(frames[index], events=events)
    assert any(item.promise == "client" for item in check(sample.evidence(*frames)))


@settings(deadline=None)
@given(_scripts)
def test_a_frame_that_is_left_out_fails(script: Script) -> None:
    sample = made(script)
    frames = [frame for frame in sample.frames("one", "a", list(range(40))) if frame.kind != "live"]
    full = [index for index, frame in enumerate(frames) if frame.events]
    assume(full)
    del frames[full[0]]
    assert check(sample.evidence(*frames))


@settings(deadline=None)
@given(_scripts, st.data())
def test_two_answers_that_are_exchanged_fail(script: Script, data: st.DataObject) -> None:
    sample = made(script)
    answered = [index for index, write in enumerate(sample.writes) if write.answers]
    assume(len(answered) > 1)
    one, other = data.draw(st.permutations(answered))[:2]
    first, second = sample.writes[one], sample.writes[other]
    assume(first.answers != second.answers)
    sample.writes[one] = replace(first, answers=second.answers)
    sample.writes[other] = replace(second, answers=first.answers)
    assert any(item.promise == "answers" for item in check(sample.evidence()))
