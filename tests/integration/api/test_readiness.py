"""`/readyz`, and the check of the archive at start."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from eventsync.domain.positions import LogId
from eventsync.settings import Settings
from eventsync.stores.archive.identity import MARK
from eventsync.stores.stores import Stores
from eventsync.sync import operations
from support.environment import environment_with
from support.program import finished
from support.systems import running_server, running_worker, tracked
from support.waiting import eventually, patience


@pytest.fixture
def archived(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"collections": ("docs",), "archive_url": str(tmp_path / "archive")})


async def refusal(settings: Settings, directory: Path, command: str, archive: str) -> str:
    """The one line that a process with another archive ends with."""
    environment = environment_with(
        mongodb_uri=settings.mongodb_uri, database=settings.database, archive_url=archive, port=0
    )
    done = await finished(command, environment=environment, directory=directory, seconds=patience(60))
    assert done.exit_code == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


async def test_process_with_another_archive_does_not_start(
    archived: Settings, stores: Stores, client: object, tmp_path: Path
) -> None:
    await Stores.of(stores.log.client, archived).archive.identity.claim(LogId("abcdefgh"))
    await stores.log["segments"].insert_one({"_id": {"l": "abcdefgh", "n": 1}, "path": "abcdefgh/1.seg"})
    (tmp_path / "file").write_text("")
    for command in ("serve", "worker"):
        assert "archive_url names none here" in await refusal(archived, tmp_path, command, "")
        elsewhere = await refusal(archived, tmp_path, command, str(tmp_path / "elsewhere"))
        assert elsewhere.startswith("eventsync: archive_url names another archive than the log's: it has not the log's")
        assert str(tmp_path / "elsewhere") in elsewhere
        assert "archive_url can't be used" in await refusal(archived, tmp_path, command, str(tmp_path / "file"))
        assert "absolute path" in await refusal(archived, tmp_path, command, "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


async def test_server_is_not_ready_while_its_archive_is_another_one(
    archived: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_ARCHIVE_AGE", 0.0)
    mark = Path(archived.archive_url) / MARK
    async with (
        running_worker(archived),
        running_server(archived) as url,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        await tracked(url, ["docs"])
        ready = (await client.get("/readyz")).json()
        assert (ready["status"], ready["archive"], ready["detail"]) == ("ready", None, "live")
        mark.rename(mark.with_suffix(".away"))
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
        assert answer.json()["detail"].startswith("archive_url names another archive than the log's")
        assert str(mark.parent) not in answer.text
        mark.with_suffix(".away").rename(mark)
        assert (await client.get("/readyz")).status_code == 200


async def test_server_is_degraded_while_its_archive_does_not_answer(
    archived: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_ARCHIVE_AGE", 0.0)
    async with (
        running_worker(archived),
        running_server(archived) as url,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        await tracked(url, ["docs"])
        mark = Path(archived.archive_url) / MARK
        mark.unlink()
        mark.symlink_to(mark)  # an error that says nothing of permissions
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["archive"] == answer.json()["detail"]


async def test_server_without_a_log_says_so(settings: Settings) -> None:
    """Before the first worker has run, an operator finds out why nothing is served, and no error."""
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:

        async def says_so() -> bool:
            detail = (await client.get("/readyz")).json()["detail"]
            return bool(detail == "there is no event log yet: is a worker running?")

        await eventually(says_so, 20)
        problems = (await client.get("/v1/admin/overview")).json()["problems"]
        assert "there is no event log yet" in problems[0]["what"]
        answer = await client.get("/v1/admin/repairs")
        assert (answer.status_code, answer.json()) == (200, {"repairs": [], "logs": []})
