from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError, Unavailable
from app.stores.objects import ObjectMissing, Objects


@pytest.fixture(params=["path", "url"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    directory = tmp_path / "with blank" / "archive"
    return Objects(str(directory) if request.param == "path" else directory.as_uri())


async def test_what_is_put_is_read_whole_and_in_part(objects: Objects) -> None:
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


async def test_what_is_not_there_is_named(objects: Objects) -> None:
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


def test_none_is_no_store_and_nonsense_is_refused() -> None:
    assert Objects.of("none") is None
    assert Objects.of("") is not None
    with pytest.raises(ConfigurationError, match="archive_url 'nonsense://x' can't be used"):
        Objects("nonsense://x")
