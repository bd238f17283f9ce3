from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.mongodb.change_stream import watch
from eventsync.settings import Settings
from eventsync.stores.history.verification import Verification, VerifiedPoint
from eventsync.stores.stores import Stores
from support.archives import archiver, begun, compactor, event, events_of, sealed
from support.systems import running_server
from support.waiting import patience

EVENTS = [event(seq) for seq in range(1, 101)]
URL = "/v1/sync/segments"


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Segments of 20 events; all but the newest few are archived."""
    update = {"archive_url": str(tmp_path / "archive"), "hot_events": 10, "segment_events": 20, "retention_age": 0.0}
    return settings.model_copy(update=update)


@pytest.fixture
async def log(stores: Stores, settings: Settings) -> LogId:
    log = await begun(stores, EVENTS)
    await archiver(stores, settings).run_once()
    return log


async def test_segments_are_listed_and_read(stores: Stores, settings: Settings, log: LogId) -> None:
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(15)) as client:
        listed = await _listed(stores, client)
        assert [(item["first"], item["last"]) for item in listed] == [(1, 20), (21, 40), (41, 60), (61, 80)]
        page = (await client.get(URL, params={"limit": 1, "after": 20})).json()
        assert ([item["first"] for item in page["segments"]], page["next"]) == ([21], 40)
        answer = await client.get(f"{URL}/{listed[1]['position']}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.eventsync.segment")
        assert "immutable" in answer.headers["cache-control"]
        assert hashlib.sha256(answer.content).hexdigest() == listed[1]["sha256"] == answer.headers["etag"].strip('"')
        assert list(events_of(answer.content)) == [sealed(item) for item in EVENTS[20:40]]
        headers = {"if-none-match": answer.headers["etag"]}
        again = await client.get(f"{URL}/{listed[1]['position']}", headers=headers)
        assert (again.status_code, again.content) == (304, b"")
        assert (await client.get(f"{URL}/{log}:22")).status_code == 404
        assert (await client.get(f"{URL}/nonsense")).status_code == 400


async def _listed(stores: Stores, client: httpx.AsyncClient) -> list[dict[str, object]]:
    """As soon as the server knows the log."""
    async with watch(stores.log, []) as stream:
        while (answer := await client.get(URL)).status_code == 503:
            await stream.read(wait=0.05, limit=1)
    found: list[dict[str, object]] = answer.json()["segments"]
    return found


async def test_missing_or_damaged_segment_is_refused(stores: Stores, settings: Settings, log: LogId) -> None:
    await compactor(stores, settings.model_copy(update={"retention_events": 75})).run_once()
    (file,) = (Path(settings.archive_url) / log).glob(f"{21:020}-*")
    file.write_bytes(file.read_bytes()[:100])
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(15)) as client:
        listed = await _listed(stores, client)
        assert [item["first"] for item in listed] == [21, 41, 61]
        assert (await client.get(f"{URL}/{log}:1")).status_code == 404
        assert (await client.get(f"{URL}/{log}:21")).status_code == 503


async def test_verification_reads_all_segments_and_their_joints(stores: Stores, settings: Settings, log: LogId) -> None:
    verification = Verification(stores.history.reader, stores.history.comparison)
    seen: list[int] = []
    point = VerifiedPoint(log, Seq(100), EVENTS[-1].time, Seq(100), settled=True)
    assert await verification.numbers(point, seen.append) is None
    assert sum(seen) == 100
    await stores.log["events"].delete_one({"_id.n": 81})
    with pytest.raises(Damaged, match="event 81 is missing"):
        await verification.numbers(point, seen.append)
    await compactor(stores, settings.model_copy(update={"retention_events": 75})).run_once()
    with pytest.raises(Damaged, match="event 81 is missing"):
        await verification.numbers(point, seen.append)
    (file,) = (Path(settings.archive_url) / log).glob(f"{41:020}-*")
    data = bytearray(file.read_bytes())
    data[-200] ^= 1  # in the footer or in the index, which no reading of all events needs
    file.write_bytes(data)
    with pytest.raises(Damaged, match=str(file.name)):
        await verification.numbers(point, seen.append)
