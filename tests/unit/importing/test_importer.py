"""The importer: each document exactly once, in order for each document, whatever the target answers."""

from __future__ import annotations

import asyncio
import io
import json
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from eventsync.domain.ids import format_id
from eventsync.domain.values.extended_json import from_tree
from eventsync.errors import ConfigurationError, Malformed, TooLarge, Unavailable
from eventsync.importing import Importer, ImportJob, Mode, Place, ProgressFile, Totals, read_records
from eventsync.importing.items import Item, tag_of
from eventsync.importing.progress import State
from eventsync.importing.targets import WRITTEN, ItemAnswer

UNKNOWN = ItemAnswer("unavailable", "gone", retryable=True)
NOT_BEGUN = ItemAnswer("not_attempted", "late", retryable=True, begun=False)


class Memory:
    """A target that keeps documents by the text of their id. `trouble` may answer instead, before or after a write."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.writes: Counter[str] = Counter()
        self.under_way = self.most = 0
        self.before: Callable[[Item], ItemAnswer | None] = lambda _: None
        self.after: Callable[[Item], ItemAnswer | None] = lambda _: None
        self.refuse: Callable[[Sequence[Item]], None] = lambda _: None

    async def write(self, items: Sequence[Item]) -> list[ItemAnswer]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        self.refuse(items)
        assert not any(b"\n" in item.encoded() for item in items)
        answers = [self.before(item) or self._written(item) for item in items]
        await asyncio.sleep(0)
        return answers

    def _written(self, item: Item) -> ItemAnswer:
        operation = json.loads(item.encoded())
        content = operation.get("doc", operation.get("patch"))
        key = operation.get("id") or format_id(from_tree(content["_id"]))
        answer = self._answer(item, key, content)
        return self.after(item) or answer

    def _answer(self, item: Item, key: str, content: Any) -> ItemAnswer:
        key = key.removeprefix("int:")
        exists = key in self.documents
        if exists and (item.method == "POST" or item.if_absent):
            stored = self.documents[key]
            etag = tag_of(item) if stored == content else '"1.0000000000000000"'
            return (
                ItemAnswer("version_mismatch", "exists", etag=etag)
                if item.if_absent
                else ItemAnswer("conflict", "exists")
            )
        if not exists and item.method in {"PATCH", "DELETE"}:
            return ItemAnswer("not_found", "missing")
        self.writes[key] += 1
        if item.method == "DELETE":
            del self.documents[key]
        elif item.method == "PATCH":
            self.documents[key] |= {part["path"][1:]: part["value"] for part in content}
        else:
            self.documents[key] = content
        return WRITTEN


class Report:
    def __init__(self) -> None:
        self.errors: list[tuple[int, str]] = []
        self.places: list[Place] = []

    def failed(self, line: int, error: str) -> None:
        self.errors.append((line, error.partition(":")[0]))

    def advanced(self, done: Place, written: int) -> None:  # noqa: ARG002 - as the importer calls it
        self.places.append(done)


class Import:
    """Imports of documents into one `Memory`."""

    def __init__(self, path: Path, mode: Mode = Mode.INSERT) -> None:
        self.memory = Memory()
        self.report = Report()
        self.mode = mode
        self.file = path / "docs.ndjson"
        self.kept = path / "docs.ndjson.progress"

    async def run(self, *, resume: bool = False, timeout: float = 5.0, stop_on_error: bool = False) -> Totals:
        with self.file.open("rb") as source:
            progress = ProgressFile(self.kept, source, ImportJob("memory", "docs", self.mode))
            state = progress.begin(resume=resume)
            importer = Importer(self.memory, self.mode, progress, self.report, parallel=3, timeout=timeout)
            return await importer.run(read_records(source, state.done), state, stop_on_error=stop_on_error)

    def write(self, *documents: Any) -> None:
        lines = [item if isinstance(item, bytes) else orjson.dumps(item) for item in documents]
        self.file.write_bytes(b"\n".join(lines))


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"_id": number, "n": number} for number in range(count)]


def stored(count: int) -> dict[str, Any]:
    return {str(item["_id"]): item for item in numbered(count)}


async def test_all_documents_are_written_once_some_batches_at_a_time(tmp_path: Path) -> None:
    one = Import(tmp_path)
    one.write(*numbered(5000))
    assert await one.run() == Totals(5000, 0, complete=True)
    assert one.memory.documents == stored(5000)
    assert set(one.memory.writes.values()) == {1}
    assert one.memory.most == 3
    assert one.report.places == sorted(one.report.places, key=lambda place: place.offset)


async def test_errors_are_listed_by_line_and_stop_nothing(tmp_path: Path) -> None:
    one = Import(tmp_path)
    one.write({"_id": 1}, b"{'no'}", {"_id": 1}, b"[]", b'{"_id": {"$oid": 7}}', {"_id": 2})
    one.memory.before = lambda item: ItemAnswer("malformed", "bad") if b"$oid" in (item.content or b"") else None
    assert await one.run() == Totals(2, 4, complete=True)
    assert one.report.errors == [
        (2, "malformed"),
        (3, "conflict"),
        (4, "malformed"),
        (5, "malformed"),
    ]


async def test_import_stops_at_an_error_on_request(tmp_path: Path) -> None:
    one = Import(tmp_path)
    one.write(b"{'no'}", *numbered(20_000))
    totals = await one.run(stop_on_error=True)
    assert (totals.failed, totals.complete) == (1, False)
    assert totals.written < 5000
    assert await one.run(resume=True) == Totals(20_000, 1, complete=True)


async def test_insert_with_an_unknown_outcome_is_made_once(tmp_path: Path) -> None:
    """Some writes are made and their answers lost; some are not begun."""
    one, seen = Import(tmp_path), set[bytes]()

    def first(item: Item) -> bool:
        fresh = item.key not in seen
        seen.add(item.key)
        return fresh

    one.memory.before = lambda item: NOT_BEGUN if item.record.begin.line % 3 == 0 and first(item) else None
    one.memory.after = lambda item: UNKNOWN if item.record.begin.line % 3 == 1 and first(item) else None
    one.write(*numbered(900), {"_id": 5, "n": "another"})
    assert await one.run() == Totals(900, 1, complete=True)
    assert one.memory.documents == stored(900)
    assert set(one.memory.writes.values()) == {1}


async def test_document_without_a_valid_id_fails_alone_although_an_answer_is_lost(tmp_path: Path) -> None:
    one = Import(tmp_path)
    answers = [UNKNOWN]
    one.memory.before = lambda item: (
        answers.pop() if answers else ItemAnswer("malformed", "bad") if b"$oid" in (item.content or b"") else None
    )
    one.write({"_id": {"$oid": "no"}}, {"_id": 1})
    assert await one.run() == Totals(1, 1, complete=True)
    assert one.report.errors == [(1, "malformed")]


@pytest.mark.parametrize("mode", [Mode.INSERT, Mode.UPSERT, Mode.MERGE])
async def test_document_without_an_id_is_made_once_although_its_answer_is_lost(tmp_path: Path, mode: Mode) -> None:
    """Unless another program has changed it meanwhile: then it is listed."""
    one, seen = Import(tmp_path, mode), set[bytes]()

    def after(item: Item) -> ItemAnswer | None:
        if item.key in seen:
            return None
        seen.add(item.key)
        made = next(document for document in one.memory.documents.values() if document["n"] == item.record.begin.line)
        if made["n"] == 2:
            made["n"] = "changed"
        return UNKNOWN

    one.memory.after = after
    one.write(*({"n": n} for n in (1, 2, 3)))
    assert await one.run() == Totals(2, 1, complete=True)
    assert one.report.errors == [(2, "version_mismatch")]
    assert [document["n"] for document in one.memory.documents.values()] == [1, "changed", 3]
    assert set(one.memory.writes.values()) == {1}


async def test_unavailable_target_is_tried_again_for_a_time(tmp_path: Path) -> None:
    one, left = Import(tmp_path), 5

    def refuse(_: object) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise Unavailable("away")

    one.memory.refuse = refuse
    one.write(*numbered(10))
    assert await one.run() == Totals(10, 0, complete=True)
    left = 10**9
    one.write(*numbered(11))
    one.kept.unlink()
    with pytest.raises(Unavailable, match=r"nothing could be written for 0\.1 s: away"):
        await one.run(timeout=0.1)
    assert one.kept.exists()


async def test_batch_that_is_too_large_is_divided(tmp_path: Path) -> None:
    one = Import(tmp_path)

    def refuse(items: Sequence[Item]) -> None:
        if len(items) > 3 or any(b'"huge"' in (item.content or b"") for item in items):
            raise TooLarge("too large")

    one.memory.refuse = refuse
    one.write(*numbered(20), {"_id": "huge"})
    assert await one.run() == Totals(20, 1, complete=True)
    assert one.report.errors == [(21, "too_large")]


@pytest.mark.parametrize("seed", range(5))
async def test_interrupted_import_continues_where_it_was(tmp_path: Path, seed: int) -> None:
    """Cancelled anywhere, again and again, also between a write and its answer. Half of the documents have no id."""
    one = Import(tmp_path)
    one.write(*({"n": n} if n % 2 else {"_id": n, "n": n} for n in range(6000)))
    resume, totals = False, None
    while totals is None:
        task = asyncio.create_task(one.run(resume=resume))
        for _ in range(4 + seed):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
        try:
            totals = await task
        except asyncio.CancelledError:
            resume = one.kept.exists()
    assert totals == Totals(6000, 0, complete=True)
    assert Counter(item["n"] for item in one.memory.documents.values()) == Counter(range(6000))
    assert set(one.memory.writes.values()) == {1}


@pytest.mark.parametrize("spelled", [lambda n: n % 7, lambda n: n % 7 if n % 2 else {"$numberInt": f"{n % 7}"}])
async def test_upsert_replaces_in_the_order_of_the_file(tmp_path: Path, spelled: Callable[[int], Any]) -> None:
    one = Import(tmp_path, Mode.UPSERT)
    one.write(*({"_id": spelled(n), "n": n} for n in range(4000)))
    seen = set[int]()

    def before(item: Item) -> ItemAnswer | None:
        line = item.record.begin.line
        if line % 211 or line in seen:
            return None
        seen.add(line)
        return UNKNOWN

    one.memory.before = before
    assert (await one.run()).failed == 0
    assert one.memory.documents == {str(n % 7): {"_id": spelled(n), "n": n} for n in range(3993, 4000)}


async def test_merge_sets_fields_and_inserts_what_is_missing(tmp_path: Path) -> None:
    one = Import(tmp_path, Mode.MERGE)
    one.memory.documents = {"1": {"_id": 1, "kept": 1, "n": 1}}
    one.write({"_id": 1, "n": None}, {"_id": 2, "n": 2}, {"n": 3})
    assert await one.run() == Totals(3, 0, complete=True)
    assert one.memory.documents.pop("1") == {"_id": 1, "kept": 1, "n": None}
    assert one.memory.documents.pop("2") == {"_id": 2, "n": 2}
    assert len(one.memory.documents) == 1


@pytest.mark.parametrize("mode", list(Mode))
async def test_document_of_several_lines_is_sent_in_one(tmp_path: Path, mode: Mode) -> None:
    one = Import(tmp_path, mode)
    one.memory.documents = {"1": {"_id": 1, "n": 0}} if mode is Mode.DELETE else {}
    one.file.write_bytes(b'[{\n"_id": 1,\r\n"n": 1\n}]')
    assert await one.run() == Totals(1, 0, complete=True)
    assert one.memory.documents == ({} if mode is Mode.DELETE else {"1": {"_id": 1, "n": 1}})


async def test_delete_ignores_what_is_missing(tmp_path: Path) -> None:
    one = Import(tmp_path, Mode.DELETE)
    one.memory.documents = stored(3)
    one.write({"_id": 0, "n": "whatever"}, {"_id": 9}, {"n": 1})
    assert await one.run() == Totals(1, 1, complete=True)
    assert set(one.memory.documents) == {"1", "2"}


async def test_import_does_not_wait_for_the_whole_file_to_find_its_end(tmp_path: Path) -> None:
    one = Import(tmp_path)
    one.file.write_bytes(b"[" + b",\n".join(map(orjson.dumps, numbered(3000))) + b", {")
    with pytest.raises(Malformed, match="line 3000: the file ends"):
        await one.run()
    assert one.kept.exists()


async def test_file_that_is_no_json_leaves_nothing_to_resume(tmp_path: Path) -> None:
    one = Import(tmp_path)
    one.file.write_bytes(b"name,age\n1,2\n")
    with pytest.raises(Malformed, match="does not belong between two documents"):
        await one.run()
    assert not one.kept.exists()


async def test_progress_is_private_and_fits_only_the_same_import(tmp_path: Path) -> None:
    one = Import(tmp_path)
    one.write(b"{'no'}", *numbered(20_000))
    with pytest.raises(ConfigurationError, match="there is nothing to resume"):
        await one.run(resume=True)
    await one.run(stop_on_error=True)
    assert stat.S_IMODE(one.kept.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="--resume continues it"):
        await one.run()
    one.mode = Mode.UPSERT
    with pytest.raises(ConfigurationError, match="another mode: insert, not upsert"):
        await one.run(resume=True)
    one.mode = Mode.INSERT
    one.file.write_bytes(b" " + one.file.read_bytes())
    with pytest.raises(ConfigurationError, match="the file has changed"):
        await one.run(resume=True)
    one.kept.write_text("{}")
    with pytest.raises(ConfigurationError, match="can't be read as the progress"):
        await one.run(resume=True)


def test_state_without_a_file_is_kept_nowhere() -> None:
    progress = ProgressFile(None, io.BytesIO(), ImportJob("memory", "docs", Mode.INSERT))
    state = progress.begin(resume=False)
    progress.before_sending(state, 10)
    progress.save(state)
    assert isinstance(state, State)
