from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from eventsync.errors import ConfigurationError, Unavailable
from eventsync.stores.archive.objects import ObjectMissing, Objects, StorageRefused, _translated


@pytest.fixture(params=["path", "url"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    directory = tmp_path / "with blank" / "archive"
    return Objects(str(directory) if request.param == "path" else directory.as_uri())


async def test_an_object_is_read_whole_and_in_part(objects: Objects) -> None:
    await objects.put("log/1.seg", b"0123456789")
    assert await objects.read("log/1.seg") == b"0123456789"
    assert await objects.read("log/1.seg", 3, 4) == b"3456"
    assert await objects.read("log/1.seg", 8, 4) == b"89"
    assert await objects.read("log/1.seg", 4) == b"456789"


async def test_nothing_is_overwritten(objects: Objects) -> None:
    await objects.put("log/1.seg", b"first")
    with pytest.raises(Unavailable, match=r"log/1\.seg can't be written to .*already exists"):
        await objects.put("log/1.seg", b"second")
    assert await objects.read("log/1.seg") == b"first"


async def test_the_error_names_the_missing_object(objects: Objects) -> None:
    await objects.put("log/1.seg", b"x")
    for length in (None, 5):
        with pytest.raises(ObjectMissing, match=r"log/2\.seg is not in "):
            await objects.read("log/2.seg", 0, length)


async def test_a_folder_is_listed_and_emptied(objects: Objects) -> None:
    assert [entry async for entry in objects.list("log")] == []
    for path in ("log/1.seg", "log/2.seg", "logs/3.seg"):
        await objects.put(path, b"xyz")
    assert {(entry.path, entry.size) async for entry in objects.list("log")} == {("log/1.seg", 3), ("log/2.seg", 3)}
    for _ in range(2):
        await objects.remove("log/1.seg")
    assert [entry.path async for entry in objects.list("log")] == ["log/2.seg"]


async def test_a_reader_makes_no_directory(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "none"))
    with pytest.raises((ObjectMissing, Unavailable)):
        await objects.read("log/1.seg")
    assert not (tmp_path / "none").exists()


async def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        await Objects(str(tmp_path / "file" / "archive")).put("a", b"x")


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "x"), NotADirectoryError(20, "x"), GenericError("Generic … Permission denied (os error 13)")],
)
def test_a_refusal_differs_from_a_passing_error(error: Exception) -> None:
    with pytest.raises(StorageRefused), _translated("it can't be read", "x"):
        raise error
    with pytest.raises(Unavailable) as raised, _translated("it can't be read", "x"):
        raise GenericError("HTTP 503")
    assert not isinstance(raised.value, StorageRefused)


async def test_only_the_owner_may_enter_unless_the_group_may(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await Objects(str(tmp_path / "own")).put("log/1.seg", b"x")
        (tmp_path / "shared").mkdir(mode=0o750)
        await Objects(str(tmp_path / "shared")).put("log/1.seg", b"x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("own", "own/log", "own/log/1.seg")]
    assert modes == [0o700, 0o700, 0o600]
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("shared", "shared/log", "shared/log/1.seg")]
    assert modes == [0o750, 0o750, 0o640]
    assert Objects(str(tmp_path / "shared")).loose is None
    (tmp_path / "shared").chmod(0o755)
    assert "chmod o=" in (Objects(str(tmp_path / "shared")).loose or "")


def test_the_url_is_shown_without_secrets() -> None:
    assert Objects("s3://key:secret@bucket/prefix?token=x").shown == "s3://bucket/prefix"


@pytest.mark.parametrize("url", ["archive", "./archive", "file://host/archive"])
def test_a_directory_is_given_by_its_whole_path(url: str) -> None:
    with pytest.raises(ConfigurationError, match="whole path"):
        Objects(url)


def test_none_is_no_store_and_nonsense_is_refused() -> None:
    assert Objects.of("none") is None
    assert Objects.of("") is None
    with pytest.raises(ConfigurationError, match="archive_url 'nonsense://x' can't be used"):
        Objects("nonsense://x")
